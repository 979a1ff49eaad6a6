"""Small sets of digits, for tests that need no trained network."""

import hashlib
import struct
from types import SimpleNamespace

import pytest
import torch

from support import dataset
from support.dataset import Digits


@pytest.fixture
def few_digits(digits, monkeypatch):
    """320 training and 100 test images, which `model.main` gets too."""
    few = Digits(
        digits.images[:320],
        digits.labels[:320],
        digits.test_images[:100],
        digits.test_labels[:100],
        digits.source,
    )
    monkeypatch.setattr("model.load_digits", lambda *_: few)
    return few


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """A data folder with seven and three random images, whose checksums count as published.

    Downloads go to a port of this machine where nobody listens: no test uses the internet.
    """
    from torchvision.datasets import MNIST  # It takes a second to import; few tests need it.

    folder = tmp_path / "digits"
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    files, tensors = {}, []
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 7), ("t10k", 3)):
        images = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=generator)
        labels = torch.randint(10, (count,), dtype=torch.uint8, generator=generator)
        tensors += [images.unsqueeze(1), labels.long()]
        for name, header, values in (
            (f"{split}-images-idx3-ubyte", struct.pack(">4I", 2051, count, 28, 28), images),
            (f"{split}-labels-idx1-ubyte", struct.pack(">2I", 2049, count), labels),
        ):
            content = header + bytes(values.flatten().tolist())
            (raw / name).write_bytes(content)
            files[name] = len(content), hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(dataset, "MNIST_FILES", files)
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return SimpleNamespace(folder=folder, raw=raw, digits=Digits(*tensors, "mnist"))


@pytest.fixture
def tiny_rendered(monkeypatch):
    """Ten grey squares instead of 70,000 rendered digits."""
    squares = torch.full((10, 1, 28, 28), 128, dtype=torch.uint8), torch.arange(10)
    monkeypatch.setattr("support.rendered.render", lambda count, seed: squares)
    return squares
