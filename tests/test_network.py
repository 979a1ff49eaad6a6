"""The network matches README's table, and can be edited and exported like any other module."""

import copy
import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from helpers import plain_logits
from torch import nn

from model import LightweightCNN, evaluate, train
from support.dataset import Digits

# Noise and not digits: no two pixels of a pooling window are equal, so its maximum is one pixel.
X = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 10


@pytest.fixture
def network():
    """With running statistics other than those of a fresh network."""
    torch.manual_seed(0)
    network = LightweightCNN()
    network(torch.rand(32, 1, 28, 28))
    return network


def test_shape_after_every_layer(network):
    """Shapes of README's table; a stage's pooled output is the next one's input."""
    shapes = {}
    for name, layer in network.named_children():
        layer.register_forward_hook(
            lambda _, inputs, output, name=name: shapes.update(
                {name: (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))}
            )
        )
    assert network(X).shape == (32, 10)
    assert shapes == {
        "conv1": ((1, 28, 28), (12, 28, 28)),
        "bn1": ((12, 28, 28), (12, 28, 28)),
        "conv2": ((12, 14, 14), (16, 14, 14)),
        "bn2": ((16, 14, 14), (16, 14, 14)),
        "conv3": ((16, 7, 7), (20, 7, 7)),
        "bn3": ((20, 7, 7), (20, 7, 7)),
        "dropout": ((180,), (180,)),
        "fc1": ((180,), (32,)),
        "fc2": ((32,), (10,)),
    }, "you changed a layer: correct its shapes above this line"


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_the_plainly_written_network(training):
    """Logits, gradients and running statistics to 1e-5; in train mode with the same dropout.

    Now and then rounding breaks a tie between two pixels of a pooling window, and so moves the
    gradients of a network. Hence the median of five.
    """
    changed = "tests/helpers.py repeats forward(): if you changed it, change plain_logits as well"
    differences = []
    for seed in range(5):
        torch.manual_seed(seed)
        network = LightweightCNN()
        network(torch.rand(32, 1, 28, 28))
        network.train(training)
        plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        torch.manual_seed(seed)
        logits = network(X)
        torch.manual_seed(seed)
        expected = plain_logits(plain, X)
        F.cross_entropy(logits, Y).backward()
        F.cross_entropy(expected, Y).backward()
        parameters = zip(network.parameters(), plain.parameters(), strict=True)
        differences.append(max((p.grad - q.grad).abs().max().item() for p, q in parameters))
        assert (logits - expected).abs().max() < 1e-5, changed
        for ours, theirs in zip(network.buffers(), plain.buffers(), strict=True):
            if ours.is_floating_point():  # not the counters of batches, which the plain form lacks
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert statistics.median(differences) < 1e-5, changed


def test_first_loss_is_that_of_guessing(digits):
    """A fresh network knows nothing: cross-entropy within 10% of ln 10, on each of ten seeds."""
    x, y = digits.images[:1000] / 255, digits.labels[:1000]
    for seed in range(10):
        torch.manual_seed(seed)
        loss = F.cross_entropy(LightweightCNN()(x), y).item()
        assert loss == pytest.approx(math.log(10), rel=0.1), f"seed {seed}"


def test_fresh_network_overfits_one_batch(digits):
    """32 images, 60 updates: it knows every one of them by heart."""
    torch.manual_seed(0)
    network = LightweightCNN()
    images, labels = digits.images[:32], digits.labels[:32]
    history = train(network, Digits(images, labels, images, labels, "few"), epochs=60)
    loss = history[-1].progress[-1].loss
    assert loss < 0.1, f"60 updates leave a loss of {loss:.2f}: is lr too small, or the loss new?"
    assert evaluate(network, images, labels) == 100


SHAPES = [(4, 3, 28, 28), (4, 1, 32, 32), (4, 1, 28, 1), (4, 1, 1, 28), (4, 28, 28), (4, 784)]


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_another_shape_are_refused(network, shape):
    """By an error that names the shape they must have. Nothing is broadcast."""
    with pytest.raises(AssertionError, match=r"shape \(N, 1, 28, 28\)"):
        network(torch.rand(shape))


EDITS = {
    "GroupNorm": lambda bn: nn.GroupNorm(1, bn.num_features),
    "no normalization": lambda bn: nn.Identity(),
    "another convolution": lambda bn: nn.Sequential(
        nn.Conv2d(bn.num_features, bn.num_features, 3, padding=1, groups=bn.num_features), bn
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_network_trains(network, edit):
    """A changed first stage learns a batch: gradients reach all that is left, the loss falls."""
    network.bn1 = EDITS[edit](network.bn1)
    images = (255 * X).byte()
    history = train(network, Digits(images, Y, images, Y, "noise"), epochs=15)
    assert all(p.grad.isfinite().all() and p.grad.any() for p in network.parameters())
    fall = history[0].progress[-1].loss - history[-1].progress[-1].loss
    assert fall > 0.2, f"15 updates lower the loss by {fall:.2f} only"


def test_torch_export_with_any_batch_size(network):
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(network.eval(), (X,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(exported.module()(X[:7]), network(X[:7]), atol=1e-5, rtol=0)
