"""The network can be exported, and refuses images of another shape."""

import pytest
import torch

from model import LightweightCNN


def test_torch_export_with_any_batch_size():
    """As the docstring of LightweightCNN writes it."""
    network, x = LightweightCNN().eval(), torch.rand(7, 1, 28, 28)
    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(network, (x[:2],), dynamic_shapes=shapes).module()
    torch.testing.assert_close(exported(x), network(x), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"shape \(N, 1, 28, 28\)"):
        network(x[:, 0])
