"""The gates: what makes a network and an augmentation good. `pytest test_model.py`.

This file runs `python model.py`, trains a network with augmentation, and trains three pairs of
networks, each on a third of the training images. `--dataset {auto,mnist,rendered}` chooses the
digits. The last lines of pytest show each metric beside its bound. How much room the bounds of
trained networks leave to the worst known run stands in benchmarks/README.md.
"""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from augment import augment, rotate, scale, translate
from model import FIRST_EPOCH_BOUND, LightweightCNN, count_parameters, evaluate, predict, train

# The bounds of the gates: what each metric must be above or below, and its unit.
BOUNDS = {
    "parameters": ("<", 25_000, ""),
    "first epoch accuracy": (">", FIRST_EPOCH_BOUND, "%"),
    "first epoch accuracy, augmented": (">", FIRST_EPOCH_BOUND, "%"),
    "test accuracy": (">", 90.0, "%"),
    "test accuracy, mean of three": (">", 97.5, "%"),
    "hardest digit": (">", 95.5, "%"),
    "smallest gradient norm": (">", 3e-3, ""),
    "gradient norm of biases before batch norm": ("<", 3e-3, ""),
    "largest gradient norm": ("<", 8.0, ""),
    "accuracy, noise 0.1": (">", 96.5, "%"),
    "accuracy, noise 0.2": (">", 76.0, "%"),
    "errors saved by augmentation": (">", 12.0, "%"),
}


# --- What the gates judge -----------------------------------------------------------------------


def train_network(seed, digits, **options):
    """Return a new network that `train` has trained with the options, and its history."""
    torch.manual_seed(seed)
    network = LightweightCNN()
    return network, train(network, digits, **options)


def train_thirds(seed, digits):
    """Train a network without and one with augmentation on each third of the training images.

    A mean over three networks varies less from seed to seed than one network on the whole set; the
    linear schedule makes it vary less too. So does augmenting every image (p=1).

    Returns:
        Two lists of networks: without augmentation, and with it.
    """
    trained = []
    for transform in (None, lambda images: augment(images, p=1.0)):
        networks = []
        for third in range(3):
            part = digits._replace(images=digits.images[third::3], labels=digits.labels[third::3])
            options = {"lr_schedule": "linear", "transform": transform}
            networks.append(train_network(3 * seed + third, part, **options)[0])
        trained.append(networks)
    return trained


@pytest.fixture(scope="session")
def thirds(default_start, digits):
    """The networks of `train_thirds`, which are trained while `python model.py` runs."""
    without_augmentation, augmented = train_thirds(42, digits)
    return SimpleNamespace(without_augmentation=without_augmentation, augmented=augmented)


# --- 1. Parameter count -------------------------------------------------------------------------


def test_parameter_count(gate):
    """Fewer than 25,000, and exactly as many as the specification says."""
    count = count_parameters(LightweightCNN())
    gate({"parameters": count})
    changed = "you changed a layer: correct the number in this test; see .github/CONTRIBUTING.md"
    assert count == 10_982, changed


# --- 2. Accuracy after the first epoch ----------------------------------------------------------


# `thirds` comes first, because `default_run` waits for the end of its process: this saves its time.
def test_first_epoch_accuracy(thirds, default_run, gate):
    """The running accuracy of the one epoch of `python model.py`, as its log states it."""
    gate({"first epoch accuracy": default_run.first_epoch_accuracy})


def test_first_epoch_accuracy_with_augmentation(digits, gate):
    """The same with 20% of the images augmented, as by `python model.py --augment`."""
    _, history = train_network(42, digits, transform=augment)
    gate({"first epoch accuracy, augmented": history[0].progress[-1].accuracy})


def test_accuracy_on_the_test_images(default_run, digits, gate):
    """Of the saved weights, on all test images; the log states the same number.

    The learning rate stays high until the end, so one run may end far below the mean. This bound is
    loose, and stops a run that has gone wrong. The next test has tight ones.
    """
    accuracy = evaluate(default_run.network, digits.test_images, digits.test_labels)
    gate({"test accuracy": accuracy})
    assert default_run.lines[-1].endswith(f": {accuracy:.2f}%")


def mean_accuracy(networks, images, digits):
    """Accuracy in percent on the test images in the given form, mean over networks."""
    return sum(evaluate(n, images, digits.test_labels) for n in networks) / len(networks)


def accuracies_of_thirds(networks, digits):
    """Return the metrics of networks on the test images: on all, and on the hardest digit.

    The accuracy on a digit is the share of its images that are predicted as this digit: its recall.
    """
    labels = digits.test_labels
    hits = [predict(network, digits.test_images).argmax(1) == labels for network in networks]
    correct = torch.stack(hits).double().mean(0)  # (N,), the mean over the networks
    of_each_digit = [correct[labels == digit].mean().item() for digit in labels.unique()]
    accuracy = {"test accuracy, mean of three": 100 * correct.mean().item()}
    return accuracy | {"hardest digit": 100 * min(of_each_digit)}


def test_mean_accuracy_of_three_networks(thirds, digits, gate):
    """Of those trained on thirds of the set, on all test images and on those of each digit.

    The linear schedule and the mean leave no tail, so these bounds can be tight. No digit is
    sacrificed for the average.
    """
    gate(accuracies_of_thirds(thirds.without_augmentation, digits))


# --- 3. Gradient flow ---------------------------------------------------------------------------


BEFORE_BATCH_NORM = ("conv1.bias", "conv2.bias", "conv3.bias")


def test_gradients_flow_to_every_parameter(digits, gate):
    """On a real batch no gradient is missing, vanishes or explodes, on each of ten seeds.

    The one exception: batch norm subtracts the mean, and with it any constant that the bias of the
    convolution before it has added. Such a bias has no effect on the loss, so its gradient is 0
    up to rounding. Each metric is at least a factor of three away from its bound.
    """
    x, y = digits.images[:32] / 255, digits.labels[:32]
    norms, norms_before_batch_norm = [], []
    for seed in range(10):
        torch.manual_seed(seed)
        network = LightweightCNN()
        F.cross_entropy(network(x), y).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{name} gets no gradient: does forward() use it?"
            norm = parameter.grad.norm().item()
            assert math.isfinite(norm), f"the gradient of {name} is not finite"
            if name in BEFORE_BATCH_NORM:
                norms_before_batch_norm.append(norm)
            else:
                norms.append(norm)
    gate(
        {
            "smallest gradient norm": min(norms),
            "gradient norm of biases before batch norm": max(norms_before_batch_norm),
            "largest gradient norm": max(norms),
        }
    )


# --- 4. Robustness to noise ---------------------------------------------------------------------


def add_noise(images, sigma):
    """Float images in [0, 1] under Gaussian noise of standard deviation sigma, always the same."""
    generator = torch.Generator().manual_seed(0)
    return (images + sigma * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def accuracies_under_noise(networks, digits):
    """Return the metrics of networks under noise of two strengths: the means over them."""
    images = digits.test_images / 255
    return {
        f"accuracy, noise {sigma}": mean_accuracy(networks, add_noise(images, sigma), digits)
        for sigma in (0.1, 0.2)
    }


def test_noise_robustness(thirds, digits, gate):
    """Of the three networks on thirds; stronger noise costs more."""
    accuracies = accuracies_under_noise(thirds.without_augmentation, digits)
    gate(accuracies)
    light, strong = accuracies.values()
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


def test_the_mix_changes_a_fifth_of_the_images_by_one_operation_each(monkeypatch):
    """Of a million images 20% are changed, evenly by each operation, uniformly within its range.

    Seen from the amounts that `augment` hands to `warp`. A count may be five standard deviations
    off, which happens once in a million draws; the seed is fixed, so it does not happen here.
    For the share that is 0.2 percentage points, so a share of 19% or 21% fails.
    """
    count, amounts = 1_000_000, {}

    def record(images, **given):
        amounts.update(given)
        return images

    monkeypatch.setattr("augment.warp", record)
    augment(torch.zeros(count, 1, 1, 1), generator=torch.Generator().manual_seed(1))
    degrees, right, down = amounts["degrees"], amounts["right"], amounts["down"]  # (K,) each
    factor = amounts["factor"] - 1  # 0 leaves an image as it is.
    changed = len(degrees)
    slack = 5 * math.sqrt(0.2 * 0.8 / count)
    assert changed / count == pytest.approx(0.2, abs=slack), "the default of p is not 0.2"

    rotated, shifted, scaled = degrees != 0, right != 0, factor != 0
    assert torch.equal(shifted, down != 0), "a translation shifts in both directions"
    one_each = rotated.int() + shifted.int() + scaled.int() == 1
    assert one_each.all(), "not exactly one operation for each image"
    slack = 5 * math.sqrt(changed * (1 / 3) * (2 / 3))
    for chosen in (rotated, shifted, scaled):
        assert chosen.sum().item() == pytest.approx(changed / 3, abs=slack), "uneven"
    for name, values, limit in (
        ("rotation", degrees[rotated], 5),
        ("translation to the right", right[shifted], 0.05),
        ("translation down", down[shifted], 0.05),
        ("scaling", factor[scaled], 0.05),
    ):
        quartiles = (values / limit).quantile(torch.linspace(0, 1, 5))
        message = f"{name}: not uniform by up to {limit} either way"
        expected = torch.linspace(-1, 1, 5)
        torch.testing.assert_close(quartiles, expected, atol=0.02, rtol=0, msg=message)
    correlation = torch.stack([right[shifted], down[shifted]]).corrcoef()[0, 1]
    assert correlation.abs() < 0.02, "right and down are one amount used twice"


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


def move_at_random(images):
    """Float images in [0, 1], each rotated, scaled and shifted at random, always the same.

    By up to 10 degrees either way, to 90-110% of the size, by up to 10% in both directions.
    """
    generator = torch.Generator().manual_seed(0)
    amount = 2 * torch.rand(4, len(images), generator=generator) - 1
    images = scale(rotate(images, 10 * amount[0]), 1 + 0.1 * amount[1])
    return translate(images, 0.1 * amount[2], 0.1 * amount[3])


def errors_saved(without_augmentation, augmented, digits):
    """Return the metric: by how many percent augmentation lowers the errors on moved digits."""
    images = move_at_random(digits.test_images / 255)
    errors_without = 100 - mean_accuracy(without_augmentation, images, digits)
    errors_with = 100 - mean_accuracy(augmented, images, digits)
    return {"errors saved by augmentation": 100 * (1 - errors_with / errors_without)}


def test_augmentation_helps_on_moved_digits(thirds, digits, gate):
    """Same seeds, same images, same schedule, with and without."""
    gate(errors_saved(thirds.without_augmentation, thirds.augmented, digits))
