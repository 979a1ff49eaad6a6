"""Rendered digits are like MNIST where they must be, and the same every time."""

import pytest
import torch

from support.dataset import load_digits
from support.rendered import render


def test_rendered_digits_look_like_mnist():
    """Polarity, size, centring and ink of MNIST, as published or measured on its test images.

    Published: 20 x 20 pixels of digit, centre of mass in the middle of 28 x 28. Mean intensity of
    MNIST: 0.1307.
    """
    x = render(10_000, seed=1)[0][:, 0] / 255
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


def test_each_split_has_its_own_digits(monkeypatch):
    """60,000 and 10,000 from two seeds, which share no image; all of a seed's images vary."""
    asked = []

    def render_few(count, seed):
        asked.append((count, seed))
        return render(500, seed)

    monkeypatch.setattr("support.rendered.render", render_few)
    digits = load_digits("rendered")
    assert asked == [(60_000, 0), (10_000, 1)], "the recorded runs are those of these seeds"
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
