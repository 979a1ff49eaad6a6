"""Images of other shapes, amounts of their own, and what the random mix leaves alone."""

import pytest
import torch

from augment import augment, warp
from test_model import torchvision_affine

ALL_AT_ONCE = {"degrees": 25.0, "right": 0.1, "down": -0.2, "factor": 0.8}


@pytest.mark.parametrize("amounts", [{"degrees": 25.0}, {"right": 0.1, "down": 0.2}, ALL_AT_ONCE])
def test_images_of_any_size_and_channels(amounts):
    """A rotation of a wide image does not distort it; shifts are fractions of width and height."""
    images = torch.rand(3, 2, 28, 28 if amounts is ALL_AT_ONCE else 56)
    expected = torchvision_affine(images, **amounts)
    torch.testing.assert_close(warp(images, **amounts), expected, atol=1e-4, rtol=0)


def test_p_is_the_chance_of_each_image(digits):
    images = digits.images[:900] / 255
    assert augment(images, p=0.0) is images, "none chosen: the batch comes back as it is"
    for p, slack in ((0.5, 0.09), (1.0, 0)):  # 5 standard deviations
        changed = augment(images, p, torch.Generator().manual_seed(0)) != images
        assert changed.flatten(1).any(1).double().mean().item() == pytest.approx(p, abs=slack)


def test_generator_decides_everything(digits):
    """Same state, same result, without touching torch's global generator."""
    images = digits.images[:41] / 255
    state = torch.get_rng_state()
    first, again, other = (
        augment(images, p=0.5, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    augment(images)
    assert not torch.equal(torch.get_rng_state(), state), "the default is torch's global one"
