"""Images of other shapes, and what decides the random mix."""

import pytest
import torch

from augment import augment, warp
from test_model import torchvision_affine


@pytest.mark.parametrize("wide", [False, True])
def test_images_of_any_size_and_channels(wide):
    """All operations at once; a rotation of a wide image does not distort it."""
    amounts = (
        {"degrees": 25.0} if wide else {"degrees": 25, "right": 0.1, "down": -0.2, "factor": 0.8}
    )
    images = torch.rand(3, 2, 28, 56 if wide else 28)
    expected = torchvision_affine(images, **amounts)
    torch.testing.assert_close(warp(images, **amounts), expected, atol=1e-4, rtol=0)


def test_p_and_generator_decide_the_mix(digits):
    """Same state, same result, without touching torch's global generator, which is the default."""
    images, state = digits.images[:900] / 255, torch.get_rng_state()
    assert augment(images, p=0.0) is images, "none chosen: the batch comes back as it is"
    torch.set_rng_state(state)
    for p, slack in ((0.5, 0.09), (1.0, 0)):  # 5 standard deviations
        first, again = (augment(images, p, torch.Generator().manual_seed(0)) for _ in range(2))
        assert torch.equal(first, again)
        changed = (first != images).flatten(1).any(1)
        assert changed.double().mean().item() == pytest.approx(p, abs=slack)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(augment(images), augment(images))
