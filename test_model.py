"""The five gates: what makes a network and an augmentation good. `pytest test_model.py`.

It takes about a minute: it runs `python model.py`, trains a network with augmentation, and three
pairs of networks, each on a third of the set. `--dataset {auto,mnist,rendered}` chooses the digits.
The last lines of pytest show each metric beside its gate.
"""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from augment import augment, rotate, scale, translate
from model import LightweightCNN, count_parameters, evaluate, predict, train
from support.digits import CLASSES

# The bounds of the five gates: what each metric must be above or below, and its unit.
# `benchmarks/seeds.py` measures those in percent over many seeds. For one of your own, add a bound
# here and a test below that calls `gate({"its name": value})`: the fixture `default_run` has the
# network of one run, `trained` all. To choose the bound, measure the metric in benchmarks/seeds.py,
# and leave room beyond its worst seed. If it is in percent, add its row, which seeds.py prints, to
# README.
GATES = {
    "parameters": ("<", 25_000, ""),
    "first epoch accuracy": (">", 95.0, "%"),
    "first epoch accuracy, augmented": (">", 95.0, "%"),
    "test accuracy": (">", 90.0, "%"),
    "test accuracy, mean of three": (">", 97.5, "%"),
    "lowest digit": (">", 95.5, "%"),
    "smallest gradient norm": (">", 3e-3, ""),
    "largest gradient norm": ("<", 8.0, ""),
    "gradient norm of biases before batch norm": ("<", 3e-3, ""),
    "accuracy, noise 0.1": (">", 96.5, "%"),
    "accuracy, noise 0.2": (">", 76.0, "%"),
    "errors saved by augmentation": (">", 12.0, "%"),
}


# --- What the gates judge -----------------------------------------------------------------------


def train_thirds(digits, seed=42):
    """Train three networks without and three with augmentation, in pairs on a third of the set.

    A mean over three networks varies less from seed to seed than one network on the whole set; the
    linear schedule makes it vary less too. So does augmenting every image (p=1).

    Returns:
        Two lists of networks.
    """
    plain_and_augmented = []
    for transform in (None, lambda images: augment(images, p=1.0)):
        networks = []
        for third in range(3):
            torch.manual_seed(3 * seed + third)
            network = LightweightCNN()
            part = digits._replace(images=digits.images[third::3], labels=digits.labels[third::3])
            train(network, part, lr_schedule="linear", transform=transform)
            networks.append(network)
        plain_and_augmented.append(networks)
    return plain_and_augmented


@pytest.fixture(scope="session")
def trained(default_start, digits, request):
    """The run of model.py and, trained while it runs, the other networks.

    `plain_logits` are those of the three plain networks on the test images.
    """
    torch.manual_seed(42)
    history = train(LightweightCNN(), digits, transform=augment)  # as `model.py --augment` does
    plain, augmented = train_thirds(digits)
    return SimpleNamespace(
        default_run=request.getfixturevalue("default_run"),
        first_epoch_augmented=history[0].progress[-1].accuracy,
        plain=plain,
        plain_logits=[predict(network, digits.test_images) for network in plain],
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
        "fc1": 20 * 3 * 3 * 32 + 32,
        "fc2": 32 * CLASSES + CLASSES,
    }
    network = LightweightCNN()
    gate({"parameters": count_parameters(network)})
    counts = {name: count_parameters(layer) for name, layer in network.named_children()}
    assert counts == expected, "you changed a layer: correct `expected` above this line"
    assert count_parameters(network) == sum(expected.values()), "a parameter is in no layer"


# --- 2. Accuracy after the first epoch ----------------------------------------------------------


def test_first_epoch_accuracy(trained, gate):
    """The running accuracy of the one epoch of `python model.py`, as its log states it."""
    gate({"first epoch accuracy": trained.default_run.first_epoch})


def test_first_epoch_accuracy_with_augmentation(trained, gate):
    """The same with 20% of the images augmented, as by `python model.py --augment`."""
    gate({"first epoch accuracy, augmented": trained.first_epoch_augmented})


def test_accuracy_on_the_test_images(trained, digits, gate):
    """Of the saved weights, on all test images; the log states the same number.

    The learning rate stays high until the end, so one run may end far below the mean of 98.2%. Of
    400 runs the lowest is 95.90%, and on another processor seed 144 ends at 94.46%. So this gate is
    loose, 4 percentage points below the lowest run that is known: it stops a run that has gone
    wrong. The tight gate is the next one.
    """
    run = trained.default_run
    accuracy = evaluate(run.network, digits.test_images, digits.test_labels)
    gate({"test accuracy": accuracy})
    assert run.lines[-1].endswith(f": {accuracy:.2f}%")


def test_mean_accuracy_of_three_networks(trained, digits, gate):
    """Of the networks trained on thirds of the set, on the test images.

    The linear schedule and the mean leave no tail: the mean of 80 runs is 98.0%, the lowest 97.86%,
    and 97.79% on another processor. The room below the lowest run is 0.29 percentage points.
    """
    hits = torch.stack([logits.argmax(1) == digits.test_labels for logits in trained.plain_logits])
    gate({"test accuracy, mean of three": 100 * hits.double().mean().item()})


def recalls(logits, labels):
    """Return each digit's recall in percent, float64 `(CLASSES,)`, the mean over several networks.

    A digit's recall is the share of its images that are predicted as this digit.

    Args:
        logits: a list with one network's logits `(N, CLASSES)` in each place.
        labels: int64 `(N,)`.
    """
    correct = torch.stack([one.argmax(1) == labels for one in logits]).double().mean(0)  # (N,)
    return 100 * torch.stack([correct[labels == digit].mean() for digit in labels.unique()])


def test_lowest_digit(trained, digits, gate):
    """No digit is sacrificed for the average: mean of three networks."""
    gate({"lowest digit": recalls(trained.plain_logits, digits.test_labels).min().item()})


# --- 3. Gradient flow ---------------------------------------------------------------------------


def test_gradients_flow_to_every_parameter(digits, gate):
    """On a real batch no gradient is missing, vanishes or explodes, on each of ten seeds.

    The one exception: batch norm subtracts the mean, and with it any constant that the bias of the
    convolution before it has added. Such a bias has no effect on the loss, so its gradient is 0
    up to rounding. Each metric is at least a factor of three away from its gate.
    """
    x, y = digits.images[:32] / 255, digits.labels[:32]
    norms, without_effect = [], []
    for seed in range(10):
        torch.manual_seed(seed)
        network = LightweightCNN()
        F.cross_entropy(network(x), y).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{name} gets no gradient: does forward() use it?"
            before_norm = name in ("conv1.bias", "conv2.bias", "conv3.bias")
            (without_effect if before_norm else norms).append(parameter.grad.norm().item())
    assert all(map(math.isfinite, norms))
    gate(
        {
            "smallest gradient norm": min(norms),
            "largest gradient norm": max(norms),
            "gradient norm of biases before batch norm": max(without_effect),
        }
    )


# --- 4. Robustness to noise ---------------------------------------------------------------------


def noisy(images, sigma):
    """Float images in [0, 1] under Gaussian noise of standard deviation sigma, always the same."""
    generator = torch.Generator().manual_seed(0)
    return (images + sigma * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def mean_accuracy(networks, images, digits):
    """Accuracy in percent on the test images in the given form, mean over networks."""
    return sum(evaluate(n, images, digits.test_labels) for n in networks) / len(networks)


def test_noise_robustness(trained, digits, gate):
    """Under noise of two strengths; stronger noise costs more. Mean of three networks."""
    images = digits.test_images / 255
    light, strong = (
        mean_accuracy(trained.plain, noisy(images, sigma), digits) for sigma in (0.1, 0.2)
    )
    gate({"accuracy, noise 0.1": light, "accuracy, noise 0.2": strong})
    assert light > strong


# --- 5. Augmentation ----------------------------------------------------------------------------


def torchvision_affine(images, degrees=0.0, right=0.0, down=0.0, factor=1.0):
    """torchvision's form of `warp`, for one amount: it turns clockwise and shifts in pixels."""
    height, width = images.shape[-2:]
    return tvf.affine(
        images,
        angle=-degrees,
        translate=[width * right, height * down],
        scale=factor,
        shear=[0, 0],
        interpolation=InterpolationMode.BILINEAR,
    )


AMOUNTS = torch.linspace(-1, 1, 41)  # a batch of 41 images, each with an amount of its own
OPERATIONS = {
    rotate: {"degrees": 180 * AMOUNTS},
    translate: {"right": 0.3 * AMOUNTS, "down": 0.3 * AMOUNTS.roll(7)},
    scale: {"factor": 2**AMOUNTS},
}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_operation_equals_torchvisions(digits, operation):
    """Any angle counter-clockwise, shifts by up to 30% both ways, half to twice the size."""
    images, amounts = digits.images[:41] / 255, OPERATIONS[operation]
    results = operation(images, **amounts)
    for i in range(41):
        expected = torchvision_affine(images[i], **{k: v[i].item() for k, v in amounts.items()})
        torch.testing.assert_close(results[i], expected, atol=2e-5, rtol=0)


# The amounts of each operation of the mix, and how far each may go either way.
MIX = {
    "rotation": {"degrees": 5},
    "translation": {"right": 0.05, "down": 0.05},
    "scaling": {"factor": 0.05},
}


def test_the_mix_changes_a_fifth_of_the_images_by_one_operation_each(monkeypatch):
    """Of a million images 20% are changed, evenly by each operation, uniformly within its range.

    Seen from the amounts that `augment` hands to `warp`. A count may be five standard deviations
    off: by chance that happens once in a million runs, and with a fixed generator it cannot.
    For the share that is 0.2 percentage points, so a share of 19% or 21% fails.
    """
    count, amounts = 1_000_000, {}
    monkeypatch.setattr("augment.warp", lambda images, **given: amounts.update(given) or images)
    augment(torch.zeros(count, 1, 1, 1), generator=torch.Generator().manual_seed(1))
    changed = len(amounts["degrees"])
    slack = 5 * math.sqrt(0.2 * 0.8 / count)
    assert changed / count == pytest.approx(0.2, abs=slack), "the default of p is not 0.2"
    limits = {name: limit for operation in MIX.values() for name, limit in operation.items()}
    assert amounts.keys() == limits.keys(), "add the new operation to MIX, above this test"

    size = amounts | {"factor": amounts["factor"] - 1}  # how far from leaving an image as it is
    used = {name: values != 0 for name, values in size.items()}  # (K,) each
    assert torch.equal(used["right"], used["down"]), "a translation shifts in both directions"
    operations = torch.stack([used[next(iter(names))] for names in MIX.values()])  # (3, K)
    assert (operations.sum(0) == 1).all(), "not exactly one operation for each image"
    share = 1 / len(MIX)
    slack = 5 * math.sqrt(changed * share * (1 - share))
    assert all(abs(operations.sum(1) - changed * share) < slack), "uneven"
    for name, limit in limits.items():
        values = size[name][used[name]] / limit  # uniform in [-1, 1]
        assert values.abs().max() <= 1 + 1e-5, f"{name}: beyond its range"
        assert values.min() < -0.99 < 0.99 < values.max(), f"{name}: part of the range is unused"
        error = math.sqrt(1 / 3 / len(values))
        assert values.mean().item() == pytest.approx(0, abs=5 * error), f"{name}: one-sided"
        assert values.std().item() == pytest.approx(math.sqrt(1 / 3), rel=0.1), f"{name}: uneven"
    shifts = torch.stack([size["right"], size["down"]])[:, used["right"]]
    assert shifts.corrcoef()[0, 1].abs() < 0.02, "right and down are one amount used twice"


def test_images_that_are_not_chosen_come_back_bit_identical(digits):
    """The input is not modified; values stay in [0, 1]; shape and dtype are kept."""
    images = digits.images[:5000] / 255
    before = images.clone()
    result = augment(images, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images, before)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    same = (result == images).flatten(1).all(1)
    assert 0.7 < same.double().mean() < 0.9, "not about 80% are left as they are"
    everything = augment((images > 0.5).float(), p=1.0)
    assert (everything.min(), everything.max()) == (0, 1)


def moved(images):
    """Float images in [0, 1], each rotated, scaled and shifted at random, always the same.

    By up to 10 degrees either way, to 90-110% of the size, by up to 10% in both directions.
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
    gate({"errors saved by augmentation": errors_saved(trained.plain, trained.augmented, digits)})
