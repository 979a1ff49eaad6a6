"""The network learns, and can be edited and exported like any other module."""

import pytest
import torch

from model import LightweightCNN, evaluate, train
from support.digits import Digits

X = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 10


@pytest.fixture
def network():
    torch.manual_seed(0)
    return LightweightCNN()


def test_fresh_network_overfits_one_batch(network, digits):
    """After 60 updates on the same 32 images, it predicts all of them correctly."""
    images, labels = digits.images[:32], digits.labels[:32]
    train(network, Digits(images, labels, images, labels, "few"), epochs=60)
    assert evaluate(network, images, labels) == 100, "the network or the training cannot learn"


SHAPES = [(4, 3, 28, 28), (4, 1, 30, 30), (4, 28, 28), (4, 784)]


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_another_shape_are_refused(network, shape):
    """By an error that names the shape they must have."""
    with pytest.raises(ValueError, match=r"shape \(N, 1, 28, 28\)"):
        network(torch.rand(shape))


def test_torch_export_with_any_batch_size(network):
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(network.eval(), (X,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(exported.module()(X[:7]), network(X[:7]), atol=1e-5, rtol=0)
