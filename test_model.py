"""The five gates: what makes a network and an augmentation good. `pytest test_model.py`.

Everything is trained in one or two minutes: `python model.py`, the same with `--augment`, and three
pairs of networks on a third of the set each. `--dataset {auto,mnist,rendered}` chooses the digits.
The last lines of pytest show how far each bound was kept.
"""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from augment import augment, rotate, scale, translate
from model import LightweightCNN, count_parameters, evaluate, train

# Accuracies and shares in percent. `benchmarks/seeds.py` measures these figures over many seeds,
# and README tells how far 21 of them stay from the bounds: three standard deviations or more.
ABOVE = {
    "first epoch": 95.0,
    "first epoch, augmented": 95.0,
    "held out": 97.4,
    "noise 0.1": 96.7,
    "noise 0.2": 76.0,
    "errors saved": 18.0,
    "smallest gradient norm": 3e-3,
}
BELOW = {
    "parameters": 25_000,
    "largest gradient norm": 8.0,
    "gradient norm of biases without effect": 3e-3,
}


# --- What the gates judge -----------------------------------------------------------------------


def train_thirds(digits, seed=42):
    """Train three networks without and three with augmentation, in pairs on a third of the set.

    Means over three scatter less from seed to seed than the figures of one network on the whole
    set; so does the linear schedule. Augmentation changes every image (p=1), for the same reason.

    Returns:
        Two lists of networks.
    """
    return [
        [
            train(
                digits.images[third::3],
                digits.labels[third::3],
                lr_schedule="linear",
                seed=3 * seed + third,
                transform=transform,
            )[0]
            for third in range(3)
        ]
        for transform in (None, lambda images: augment(images, p=1.0))
    ]


@pytest.fixture(scope="session")
def trained(runs, digits, request):
    """The two runs of `model.py`, and the six networks, trained while those go on."""
    plain, augmented = train_thirds(digits)
    return SimpleNamespace(
        default_run=request.getfixturevalue("default_run"),
        augmented_run=request.getfixturevalue("augmented_run"),
        plain=plain,
        augmented=augmented,
    )


# --- 1. Parameter count -------------------------------------------------------------------------


def test_parameter_count_in_total_and_per_layer(gate):
    """Fewer than 25,000; each layer's number is kernel area * inputs * outputs + biases."""
    expected = {
        "conv1": 3 * 3 * 1 * 12 + 12,
        "bn1": 2 * 12,
        "conv2": 3 * 3 * 12 * 16 + 16,
        "bn2": 2 * 16,
        "conv3": 3 * 3 * 16 * 20 + 20,
        "bn3": 2 * 20,
        "dropout": 0,
        "fc1": 180 * 32 + 32,
        "fc2": 32 * 10 + 10,
    }
    network = LightweightCNN()
    gate("parameters", count_parameters(network))
    assert {name: count_parameters(layer) for name, layer in network.named_children()} == expected
    assert count_parameters(network) == sum(expected.values()) == 10_982


# --- 2. Accuracy after the first epoch ----------------------------------------------------------


def test_first_epoch_accuracy(trained, gate):
    """Running accuracy of the one epoch of `python model.py`, as its log states it."""
    gate("first epoch", trained.default_run.first_epoch)


def test_first_epoch_accuracy_with_augmentation(trained, gate):
    """The same of `python model.py --augment`, which learned from other images."""
    gate("first epoch, augmented", trained.augmented_run.first_epoch)
    assert "  - Transform: augment" in trained.augmented_run.lines


def test_held_out_accuracy(trained, digits, gate):
    """On the 10,000 digits that it has not seen; the log's figure is that of the saved weights."""
    run = trained.default_run
    accuracy = evaluate(run.network, digits.test_images, digits.test_labels)
    gate("held out", accuracy)
    assert run.lines[-1].endswith(f": {accuracy:.2f}%")


# --- 3. Gradient flow ---------------------------------------------------------------------------


def test_gradients_flow_to_every_parameter(digits, gate):
    """On a real batch none vanishes, explodes or is missing, on each of ten seeds.

    Each figure keeps a factor of three or more from its bound, on either source of digits: the
    table at the end of the run shows it.
    """
    x, y = digits.images[:32] / 255, digits.labels[:32]
    norms, no_effect = [], []
    for seed in range(10):
        torch.manual_seed(seed)
        network = LightweightCNN()
        F.cross_entropy(network(x), y).backward()
        for name, parameter in network.named_parameters():
            # Batch norm subtracts the mean, and with it any constant that a bias has added: the
            # loss does not depend on the bias of a convolution in front of it.
            before_norm = name in ("conv1.bias", "conv2.bias", "conv3.bias")
            (no_effect if before_norm else norms).append(parameter.grad.norm().item())
    assert all(map(math.isfinite, norms))
    gate("smallest gradient norm", min(norms))
    gate("largest gradient norm", max(norms))
    gate("gradient norm of biases without effect", max(no_effect))


# --- 4. Robustness to noise ---------------------------------------------------------------------


def noisy(images, sigma):
    """Float images in [0, 1] under Gaussian noise of standard deviation sigma, always the same."""
    generator = torch.Generator().manual_seed(0)
    return (images + sigma * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def mean_accuracy(networks, images, digits):
    """Accuracy in percent on the held-out digits, in the given form, averaged over networks."""
    return sum(evaluate(n, images, digits.test_labels) for n in networks) / len(networks)


def test_noise_robustness(trained, digits, gate):
    """Accuracy falls as noise grows, but slowly at first: mean of three networks."""
    images = digits.test_images / 255
    clean, light, strong, drowned = (
        mean_accuracy(trained.plain, noisy(images, sigma), digits) for sigma in (0, 0.1, 0.2, 1.0)
    )
    gate("noise 0.1", light)
    gate("noise 0.2", strong)
    assert clean > light > strong > drowned


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.2])
def test_noise_has_the_sigma_it_claims(sigma):
    """On grey, where nothing is clamped: mean and deviation over 78,400 pixels to five errors."""
    noise = noisy(torch.full((100, 1, 28, 28), 0.5), sigma) - 0.5
    assert noise.mean().item() == pytest.approx(0, abs=5 * sigma / 280 + 1e-9)
    assert noise.std().item() == pytest.approx(sigma, abs=5 * sigma / 396 + 1e-9)
    assert (noisy(torch.ones(1, 1, 28, 28), sigma) <= 1).all()


# --- 5. Augmentation ----------------------------------------------------------------------------

AMOUNTS = torch.linspace(-1, 1, 41)  # a batch of 41 images, each with an amount of its own
OPERATIONS = {  # what we do to a batch, and what torchvision does to one of its images
    "rotate": (
        lambda images: rotate(images, 180 * AMOUNTS),
        lambda a, b: {"angle": -180 * a},  # torchvision counts clockwise
    ),
    "translate": (
        lambda images: translate(images, 0.3 * AMOUNTS, 0.3 * AMOUNTS.roll(7)),
        lambda a, b: {"translate": [28 * 0.3 * a, 28 * 0.3 * b]},
    ),
    "scale": (
        lambda images: scale(images, 2**AMOUNTS),
        lambda a, b: {"scale": 2**a},
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_equals_torchvisions(digits, operation):
    """Any angle counter-clockwise, shifts by up to 30 % both ways, half to twice the size."""
    ours, theirs = OPERATIONS[operation]
    images = digits.images[:41] / 255
    for image, result, a, b in zip(
        images, ours(images), AMOUNTS.tolist(), AMOUNTS.roll(7).tolist(), strict=True
    ):
        nothing = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0, 0]}
        expected = tvf.affine(
            image, **nothing | theirs(a, b), interpolation=InterpolationMode.BILINEAR
        )
        torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)


def recovered_matrices(count, **kwargs):
    """Augment ramps and read off, for each image, which affine map it was warped by.

    The left half of every image is a ramp in x, the right half a ramp in y. Bilinear sampling is
    exact on ramps, so a plane fitted inside a half, away from the other and from the border, gives
    one row of the matrix that leads from output to input pixels (coordinates from the centre).

    Returns:
        float64 `(count, 2, 3)`, and which images were changed at all, bool `(count,)`.
    """
    axis = torch.arange(28) - 13.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    ramps = torch.where(x < 0, x, y) / 28 + 0.5  # in [0, 1]
    images = ramps.expand(count, 1, 28, 28).clone()
    result = augment(images, **kwargs)
    rows = []
    for columns in (slice(4, 11), slice(17, 24)):
        inside = (slice(4, 24), columns)
        px, py = x[inside].flatten().double(), y[inside].flatten().double()
        design = torch.stack([px, py, torch.ones_like(px)], dim=1)  # (140, 3)
        values = (result[:, 0, inside[0], inside[1]].double() - 0.5) * 28  # (count, 20, 7)
        rows.append(values.flatten(1) @ torch.linalg.pinv(design).T)  # (count, 3)
    return torch.stack(rows, dim=1), (result != images).flatten(1).any(1)


def test_each_changed_image_has_one_operation_within_its_range():
    """Of 30,000 images 20 % are changed, evenly by each operation, uniformly within its range.

    Every count may be five standard deviations off: by chance that happens once in a million runs,
    and with a fixed generator it cannot.
    """
    count = 30_000
    matrices, changed = recovered_matrices(count, generator=torch.Generator().manual_seed(1))
    share = changed.double().mean().item()
    assert share == pytest.approx(0.2, abs=5 * math.sqrt(0.2 * 0.8 / count))

    linear, shift = matrices[changed, :, :2], matrices[changed, :, 2]
    tolerance = 2e-4  # of recovery; amounts below it cannot be told from none
    factors = 1 / linear.det().sqrt()
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])  # radians
    shifted = shift.abs().amax(1) > tolerance * 28
    resized = (factors - 1).abs() > tolerance
    turned = angle.abs() > tolerance
    assert (shifted.int() + resized.int() + turned.int()).max() == 1, "one operation at most"
    # Nothing but turning, resizing and shifting: no shear, no mirror, no change of aspect.
    similar = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    assert (linear - similar / factors.view(-1, 1, 1)).abs().max() < tolerance

    total = changed.sum().item()
    slack = 5 * math.sqrt(total * (1 / 3) * (2 / 3)) + 0.01 * total  # 1 %: amounts close to none
    for operation in (shifted, resized, turned):
        assert operation.sum().item() == pytest.approx(total / 3, abs=slack)
    right, down = -shift[shifted].T / 28
    for amounts, low, high in (
        (angle[turned].rad2deg(), -5, 5),
        (right, -0.05, 0.05),
        (down, -0.05, 0.05),
        (factors[resized], 0.95, 1.05),
    ):
        margin = 0.01 * (high - low)
        assert low - margin < amounts.min() < low + margin
        assert high - margin < amounts.max() < high + margin
        deviation = (high - low) / math.sqrt(12)  # of a uniform distribution
        error = deviation / math.sqrt(len(amounts))
        assert amounts.mean().item() == pytest.approx((low + high) / 2, abs=5 * error)
        assert amounts.std().item() == pytest.approx(deviation, rel=0.1)
    assert torch.stack([right, down]).corrcoef()[0, 1].abs() < 0.15, "two amounts, not one twice"


def test_images_that_are_not_chosen_come_back_bit_identical(digits):
    """And the input is not modified, values stay in [0, 1], shape and dtype are kept."""
    images = digits.images[:5000] / 255
    before = images.clone()
    result = augment(images, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images, before)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    same = (result == images).flatten(1).all(1)
    assert 0.7 < same.double().mean() < 0.9
    everything = augment((images > 0.5).float(), p=1.0)
    assert (everything.min(), everything.max()) == (0, 1)


def moved(images):
    """Float images in [0, 1], each rotated, shifted and scaled at random, the same each time.

    Up to 10 degrees either way, 10 % of the size in both directions, and 90 to 110 %.
    """
    generator = torch.Generator().manual_seed(0)
    amount = 2 * torch.rand(4, len(images), generator=generator) - 1
    images = scale(rotate(images, 10 * amount[0]), 1 + 0.1 * amount[1])
    return translate(images, 0.1 * amount[2], 0.1 * amount[3])


def errors_saved(plain, augmented, digits):
    """By how many percent augmentation lowers the error rate on moved digits."""
    images = moved(digits.test_images / 255)
    with_it, without = (100 - mean_accuracy(n, images, digits) for n in (augmented, plain))
    return 100 * (1 - with_it / without)


def test_augmentation_helps_on_moved_digits(trained, digits, gate):
    """Same seeds, same images, same schedule, with and without."""
    gate("errors saved", errors_saved(trained.plain, trained.augmented, digits))
