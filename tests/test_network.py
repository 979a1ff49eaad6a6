"""The network refuses images of another shape, and can be exported."""

import pytest
import torch

from model import LightweightCNN

SHAPES = [(4, 3, 28, 28), (4, 1, 30, 30), (4, 28, 28), (4, 784)]


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_another_shape_are_refused(shape):
    """By an error that names the shape they must have."""
    with pytest.raises(ValueError, match=r"shape \(N, 1, 28, 28\)"):
        LightweightCNN()(torch.rand(shape))


def test_torch_export_with_any_batch_size():
    """As the docstring of LightweightCNN writes it."""
    network, x = LightweightCNN().eval(), torch.rand(7, 1, 28, 28)
    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(network, (x[:2],), dynamic_shapes=shapes).module()
    torch.testing.assert_close(exported(x), network(x), atol=1e-5, rtol=0)
