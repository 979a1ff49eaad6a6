"""Images of other shapes, amounts of their own, and what the random mix leaves alone."""

import pytest
import torch

from augment import augment, rotate, scale, translate, warp
from test_model import torchvision_affine


@pytest.mark.parametrize(
    "amounts",
    [
        {"degrees": 25.0},
        {"factor": 0.8},
        {"right": 0.1, "down": 0.2},
        {"degrees": 25.0, "right": 0.1, "down": -0.2, "factor": 0.8},
    ],
    ids=str,
)
def test_images_of_any_size_and_channels(amounts):
    """A rotation of a wide image does not distort it; shifts are fractions of width and height."""
    width = 28 if len(amounts) == 4 else 56
    images = torch.rand(3, 2, 28, width)
    expected = torchvision_affine(images, **amounts)
    torch.testing.assert_close(warp(images, **amounts), expected, atol=1e-4, rtol=0)


def test_directions():
    """A dot to the right of the centre turns up, moves right and down, and moves outwards."""
    image = torch.zeros(1, 1, 29, 29)
    image[0, 0, 14, 20] = 1.0

    def place(result):
        return divmod(result.argmax().item(), 29)  # row, column

    assert place(rotate(image, 90)) == (8, 14)
    assert place(translate(image, 2 / 29, 1 / 29)) == (15, 22)
    assert place(scale(image, 2)) == (14, 26)


def test_p_is_the_chance_of_each_image(digits):
    images = digits.images[:900] / 255
    assert augment(images, p=0.0) is images, "none chosen: the batch comes back as it is"
    generator = torch.Generator().manual_seed(0)
    for p, low, high in ((1.0, 1.0, 1.0), (0.5, 0.41, 0.59)):  # 5 standard deviations
        changed = (augment(images, p, generator) != images).flatten(1).any(1)
        assert low <= changed.double().mean().item() <= high


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
