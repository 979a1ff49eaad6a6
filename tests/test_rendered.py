"""The stand-in is like MNIST where it must be, and the same every time."""

import pytest
import torch

from dataset import load_digits


@pytest.fixture(scope="module")
def rendered():
    return load_digits(False, "rendered")


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


def test_rendered_digits_are_always_the_same(rendered):
    """Whatever the seed is; and the two splits share no image."""
    torch.manual_seed(123)
    images, labels, source = load_digits(False, "rendered")
    assert source == "rendered"
    assert torch.equal(images, rendered[0])
    assert torch.equal(labels, rendered[1])
    train_images, _, _ = load_digits(True, "rendered")
    seen = {image.numpy().tobytes() for image in train_images}
    assert len(seen) > 59_900, "they vary"
    assert not seen & {image.numpy().tobytes() for image in images}
