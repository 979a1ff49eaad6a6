"""Rendered digits are like MNIST where they must be, and the same every time."""

import pytest
import torch

from support.dataset import load_digits
from support.rendered import render


def test_rendered_digits_look_like_mnist():
    """White on black; 20 pixels high, centred by mass, and 0.1307 bright on average, as published.

    Mean height and brightness may differ a little.
    """
    images = render(10_000, seed=1)[0][:, 0] / 255
    mass, axis = images.sum((1, 2)), torch.arange(28) - 13.5
    for side in (1, 2):
        off_centre = ((images.sum(side) @ axis) / mass).abs()
        assert off_centre.quantile(0.99) <= 0.51, "whole pixels: half of one may remain"
    assert (images.amax(2) > 0.5).sum(1).double().mean().item() == pytest.approx(20, abs=1.5)
    assert images.mean().item() == pytest.approx(0.1307, abs=0.03)


def test_seeds_decide_the_digits_of_each_split(monkeypatch):
    """60,000 and 10,000, all different, the same every time; torch's generator is not touched."""
    asked = []
    few = lambda count, seed: asked.append((count, seed)) or render(500, seed)  # noqa: E731
    monkeypatch.setattr("support.rendered.render", few)
    state = torch.get_rng_state()
    digits, again = load_digits("rendered"), load_digits("rendered")
    assert asked == 2 * [(60_000, 0), (10_000, 1)], "the recorded runs are those of these seeds"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, digits[:4], again[:4]))
    images = torch.cat([digits.images, digits.test_images])
    assert len({image.numpy().tobytes() for image in images}) == 1000
