"""Small sets of digits, for tests that need no trained network."""

import hashlib
import struct
from types import SimpleNamespace

import pytest
import torch
from torchvision.datasets import MNIST

from support import dataset
from support.digits import CLASSES, Digits


@pytest.fixture(autouse=True)
def plain_output(monkeypatch):
    """From Python 3.14 on, argparse colours its help where FORCE_COLOR is set."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def few_digits(digits):
    """320 training and 100 test images."""
    few = Digits(*(tensor[:320] for tensor in digits[:4]), digits.name)
    return few._replace(test_images=few.test_images[:100], test_labels=few.test_labels[:100])


@pytest.fixture
def few_loaded(few_digits, monkeypatch):
    """The few digits, which model.main now loads, and other code that calls `load_digits()`."""
    load = dataset.load_digits
    monkeypatch.setattr("model.load_digits", lambda *_: few_digits)
    monkeypatch.setattr(dataset, "load_digits", lambda *args: load(*args) if args else few_digits)
    return few_digits


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """A data folder with two and one random images of each class, whose checksums count as MNIST's.

    Downloads go to a port of this machine where nobody listens: no test uses the internet.
    """
    folder = tmp_path / "digits"
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    tensors = []
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 2 * CLASSES), ("t10k", CLASSES)):
        images = torch.randint(200, (count, 28, 28), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count, dtype=torch.uint8) % CLASSES
        tensors += [images.unsqueeze(1), labels.long()]
        for file, header, values in (
            (f"{split}-images-idx3-ubyte", struct.pack(">4I", 2051, count, 28, 28), images),
            (f"{split}-labels-idx1-ubyte", struct.pack(">2I", 2049, count), labels),
        ):
            content = header + values.numpy().tobytes()
            (raw / file).write_bytes(content)
            monkeypatch.setitem(dataset.SHA256, file, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return SimpleNamespace(folder=folder, raw=raw, digits=Digits(*tensors, "MNIST"))


@pytest.fixture
def tiny_rendered(monkeypatch):
    """A grey square of each class instead of 70,000 rendered digits."""
    squares = torch.full((CLASSES, 1, 28, 28), 127, dtype=torch.uint8), torch.arange(CLASSES)
    monkeypatch.setattr("support.rendered.render", lambda count, seed: squares)
    return Digits(*squares, *squares, "rendered digits")
