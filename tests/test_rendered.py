"""Rendered digits are like MNIST where they must be, and the same every time."""

import pytest
import torch

from support.dataset import load_digits
from support.rendered import render


@pytest.fixture(scope="module")
def rendered():
    """The 10,000 rendered test images and their labels."""
    return render(10_000, seed=1)


def test_rendered_digits_look_like_mnist(rendered):
    """Polarity, size, centring and ink of MNIST, as published or measured on its test images.

    Published: 20 x 20 pixels of digit, centre of mass in the middle of 28 x 28. Mean intensity of
    MNIST: 0.1307.
    """
    x = rendered[0][:, 0] / 255
    mass = x.sum((1, 2))
    axis = torch.arange(28) - 13.5
    for side in (1, 2):
        off_centre = ((x.sum(side) @ axis) / mass).abs()
        assert off_centre.quantile(0.99) <= 0.51, "whole pixels: half of one may remain"
    height = (x.amax(2) > 0.5).sum(1).float()
    assert height.mean() == pytest.approx(20, abs=1.5)
    assert x.mean() == pytest.approx(0.1307, abs=0.03)
    assert x[:, [0, -1]].mean() < 0.01, "the margin is black"
    assert x.amax((1, 2)).min() > 0.5, "no digit is blank"
    assert x.max() == 1, "white is 255"


def measures(images):
    """What makes images vary, from their moments, float `(N,)` each.

    Slant in columns per row, width and height as two deviations, ink as the share that is white.
    """
    x = images.flatten(1) / 255  # (N, 784)
    share = x / x.sum(1, keepdim=True)
    axis = torch.arange(28) - 13.5
    right, down = axis.repeat(28), axis.repeat_interleave(28)  # (784,) each
    mean_right, mean_down = share @ right, share @ down  # (N,) each
    width = (share @ right**2 - mean_right**2).sqrt()
    height = (share @ down**2 - mean_down**2).sqrt()
    slant = -(share @ (right * down) - mean_right * mean_down) / height**2
    return {"slant": slant, "width": 2 * width, "height": 2 * height, "ink": x.mean(1)}


# Mean and deviation on the seeds 1, 2 and 3, each with a margin of at least twice their spread.
POPULATION = {
    "slant": ((0.125, 0.015), (0.262, 0.008)),
    "width": ((7.12, 0.08), (2.04, 0.03)),
    "height": ((11.92, 0.06), (1.51, 0.03)),
    "ink": ((0.153, 0.002), (0.059, 0.001)),
}


def test_rendered_digits_vary_as_meant(rendered):
    """Rotation, slant, proportions, distortion and stroke width: a wrong formula misses a range."""
    for name, values in measures(rendered[0]).items():
        (mean, margin), (std, margin_of_std) = POPULATION[name]
        assert values.mean().item() == pytest.approx(mean, abs=margin), name
        assert values.std().item() == pytest.approx(std, abs=margin_of_std), name


def test_each_split_has_its_own_digits(monkeypatch):
    """60,000 and 10,000 from two seeds, which share no image; all of a seed's images vary."""
    asked = []

    def render_few(count, seed):
        asked.append((count, seed))
        return render(500, seed)

    monkeypatch.setattr("support.rendered.render", render_few)
    digits = load_digits("rendered")
    assert asked == [(60_000, 0), (10_000, 1)], "README's numbers are those of these seeds"
    images = torch.cat([digits.images, digits.test_images])
    assert len({image.numpy().tobytes() for image in images}) == 1000


def test_seed_decides_the_pixels():
    """Same seed, same pixels, without touching torch's global generator; also in the last chunk."""
    state = torch.get_rng_state()
    (first, labels), (again, _), (other, others) = (render(2600, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert (first.dtype, first.shape) == (torch.uint8, (2600, 1, 28, 28))
    assert (first == other).flatten(1).all(1).sum() == 0
    assert not torch.equal(labels, others)
