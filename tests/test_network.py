"""The network matches README's table, and can be edited and used like any other module."""

import copy
import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from helpers import plain_logits
from torch import nn
from torch.func import functional_call, grad, vmap

from model import LightweightCNN, evaluate, train


@pytest.fixture
def network():
    """With running statistics other than those of a fresh network."""
    torch.manual_seed(0)
    network = LightweightCNN()
    network(torch.rand(32, 1, 28, 28))
    return network


# Noise and not digits: no two pixels of a pooling window are equal, so its maximum is one pixel.
X = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 10


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
        plain = copy.deepcopy(network)
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
    history = train(network, images, labels, epochs=60)
    assert history[-1][-1].loss < 0.1, "60 updates do not suffice: is the learning rate too small?"
    assert evaluate(network, images, labels) == 100


@pytest.mark.parametrize("shape", [(4, 3, 28, 28), (4, 1, 32, 32), (4, 1, 28, 14), (4, 784)])
def test_images_of_another_shape_are_refused(network, shape):
    """By an error that names the shape they must have. A colour image is not taken for three."""
    with pytest.raises(RuntimeError, match=r"1, 28, 28\]"):
        network(torch.rand(shape))


# --- What students change ---------------------------------------------------------------------

EDITS = {
    "LeakyReLU before the pool": lambda bn: nn.Sequential(bn, nn.LeakyReLU(0.1)),
    "SiLU in stage one": lambda bn: nn.Sequential(bn, nn.SiLU()),
    "Dropout2d in stage one": lambda bn: nn.Sequential(bn, nn.Dropout2d(0.1)),
    "GroupNorm": lambda bn: nn.GroupNorm(1, bn.num_features),
    "BatchNorm2d without weights": lambda bn: nn.BatchNorm2d(bn.num_features, affine=False),
    "InstanceNorm2d": lambda bn: nn.InstanceNorm2d(bn.num_features),
    "no normalization": lambda bn: nn.Identity(),
    "an extra depthwise convolution": lambda bn: nn.Sequential(
        nn.Conv2d(bn.num_features, bn.num_features, 3, padding=1, groups=bn.num_features), bn
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_network_trains(network, edit):
    """A changed first stage learns a batch: gradients reach all that is left, the loss falls."""
    network.bn1 = EDITS[edit](network.bn1)
    history = train(network, X, Y, epochs=15)
    assert all(p.grad.isfinite().all() and p.grad.any() for p in network.parameters())
    assert history[-1][-1].loss < history[0][-1].loss - 0.2, "15 updates hardly lower the loss"
    assert network(X).isfinite().all()


def test_frozen_batch_norm(network):
    """`bn1.eval()` while training: its statistics stay, everything still gets a gradient."""
    network.train().bn1.eval()
    before = network.bn1.running_mean.clone()
    F.cross_entropy(network(X), Y).backward()
    assert torch.equal(network.bn1.running_mean, before)
    assert all(p.grad.any() for p in network.parameters())


# --- What tools do ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["conv1", "bn1"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_forward_hook_reads_the_output(network, layer, training):
    """As NumPy array and as tensor."""
    seen = []
    getattr(network.train(training), layer).register_forward_hook(
        lambda _, inputs, output: seen.append((output.detach().numpy(), output.mean().item()))
    )
    with torch.no_grad():
        network(X)
    (array, mean), *_ = seen
    assert array.shape == (32, network.conv1.out_channels, 28, 28)
    assert mean == pytest.approx(float(array.mean()), abs=1e-5)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_autocast(network, training):
    """bfloat16 has eight significant bits: logits to 0.2, and finite gradients everywhere."""
    network.train(training)
    network.dropout.p = 0.0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(X)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), network(X), atol=0.2, rtol=0)
    F.cross_entropy(logits.float(), Y).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_per_sample_gradients(network):
    """`torch.func.vmap` over single images gives what a loop over them gives."""
    network.eval()
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def loss(parameters, x, y):
        return F.cross_entropy(functional_call(network, parameters, (x[None],)), y[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, X[:4], Y[:4])
    for i in range(4):
        alone = grad(loss)(parameters, X[i], Y[i])
        for name, gradient in alone.items():
            torch.testing.assert_close(gradients[name][i], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_double_backward(network, training):
    """The gradient of a gradient's norm, as a gradient penalty needs it."""
    x = X[:4].clone().requires_grad_()
    loss = F.cross_entropy(network.train(training)(x), Y[:4])
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()
    assert network.fc2.weight.grad.any()


@pytest.mark.parametrize("count", [0, 1])
def test_batches_of_none_and_one(network, count):
    with torch.no_grad():
        assert network.eval()(X[:count]).shape == (count, 10)


def test_torch_export_with_any_batch_size(network):
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(network.eval(), (X,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(exported.module()(X[:7]), network(X[:7]), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_jit_trace_with_any_batch_size(network):
    traced = torch.jit.trace(network.eval(), X)
    torch.testing.assert_close(traced(X[:7]), network(X[:7]), atol=1e-5, rtol=0)


def test_fx_trace(network):
    traced = torch.fx.symbolic_trace(network.eval())
    assert torch.equal(traced(X), network(X))


def test_float64(network):
    expected = network.eval()(X)
    torch.testing.assert_close(network.double()(X.double()).float(), expected, atol=1e-4, rtol=0)


STRIDED = {
    "every second image": torch.rand(64, 1, 28, 28)[::2],
    "every second pixel": torch.rand(32, 1, 56, 56)[:, :, ::2, ::2],
    "transposed": torch.rand(32, 1, 28, 28).transpose(2, 3),
    "one image repeated": torch.rand(1, 1, 28, 28).expand(32, 1, 28, 28),
    "channels last": torch.rand(32, 28, 28, 1).permute(0, 3, 1, 2),
    "one of three channels": torch.rand(32, 3, 28, 28)[:, 1:2],
}


@pytest.mark.parametrize("form", STRIDED)
def test_strided_input(network, form):
    x = STRIDED[form]
    with torch.no_grad():
        logits = network.eval()(x)
        torch.testing.assert_close(logits, network(x.clone().contiguous()), atol=1e-5, rtol=0)
