"""MNIST or a clear message: checksums, archives, folders, and the choice of source."""

import gzip
import hashlib
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from torchvision.datasets import MNIST

from support import dataset
from support.dataset import FILES, MnistUnavailable, load_digits
from support.digits import CLASSES, DataError, Digits


def same(digits, others):
    return digits.name == others.name and all(map(torch.equal, digits[:4], others[:4]))


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MISTAKES = {
    r"must be tensors: use torch.tensor": lambda x, y: (x, y.tolist()),
    r"must be uint8, got torch.float32; .* use \(255 \* images\)": lambda x, y: (x / 255, y),
    r"must be int64, got torch.int32; use labels.long": lambda x, y: (x, y.int()),
    r"shape \(N, 1, 28, 28\); use images.unsqueeze\(1\)": lambda x, y: (x[:, 0], y),
    rf"from 0 to {CLASSES - 1}, got .* {CLASSES}\]; .* subtract 1": lambda x, y: (x, y + 1),
}
LIKELY_MISTAKES = {
    "mostly light pixels; digits must be white on black": lambda x, y: (255 - x, y),
    "no pixel is above 16; pixels must be from 0 (black) to 255 (white), so multiply by 15": (
        lambda x, y: (x // 15, y)
    ),
    "no image of [0]; were the digits sorted when you split them": lambda x, y: (x, y.clamp(1)),
}


def load_with(mistake, monkeypatch):
    """Load digits of another source, whose test set has the mistake."""
    images = torch.zeros(CLASSES, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 10:18, 10:18] = 240
    good = images, torch.arange(CLASSES)
    digits = Digits(*good, *mistake(*good), "my-digits")
    monkeypatch.setitem(dataset.SOURCES, "my-digits", lambda _: digits)
    return load_digits("my-digits")


@pytest.mark.parametrize("message", MISTAKES)
def test_tensors_of_another_kind_are_refused(monkeypatch, message):
    with pytest.raises(DataError, match=f"^my-digits, test set: .*{message}"):
        load_with(MISTAKES[message], monkeypatch)


@pytest.mark.parametrize("message", LIKELY_MISTAKES)
def test_likely_mistakes_are_warned_of(monkeypatch, caplog, message):
    load_with(LIKELY_MISTAKES[message], monkeypatch)
    (warning,) = caplog.messages
    assert warning.startswith(f"WARNING: my-digits, test set: {message}")


def test_environment_names_dataset_and_folder(tiny_mnist, monkeypatch):
    """Relative to where the user stands; only the default, `data`, is beside model.py."""
    monkeypatch.setenv("MNIST_DATASET", "mnist")
    monkeypatch.setenv("MNIST_DATA_DIR", tiny_mnist.folder.name)
    monkeypatch.chdir(tiny_mnist.folder.parent)
    assert same(load_digits(), tiny_mnist.digits)
    monkeypatch.delenv("MNIST_DATA_DIR")
    assert dataset.data_folder() == ROOT / "data"
    assert dataset.data_folder("other") == Path.cwd() / "other"
    with pytest.raises(DataError, match=r"^there is no folder ~no-such-user: "):
        load_digits("mnist", "~no-such-user")


def test_damaged_file_is_refused_and_kept(tiny_mnist):
    """By one line that names the file and says what to do."""
    path = tiny_mnist.raw / FILES[2]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = content_of(tiny_mnist.folder)
    with pytest.raises(DataError) as error:
        load_digits("auto", tiny_mnist.folder)
    message = f"{path} is damaged (its SHA-256 is wrong); move it away and run again"
    assert str(error.value).startswith(message)
    assert content_of(tiny_mnist.folder) == before


def test_absent_mnist_is_rendered_after_a_warning(tiny_mnist, tiny_rendered, tmp_path, caplog):
    """`auto` says the reason and the place, and `mnist` fails with the same words.

    What an interrupted download leaves does not count as MNIST.
    """
    raw = tmp_path / "new" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / f"{FILES[0]}.gz").write_bytes(b"interrupted")
    with pytest.raises(MnistUnavailable) as error:
        load_digits("mnist", tmp_path / "new")
    message = " ".join(str(error.value).split())
    assert message.startswith(f"{raw} lacks {', '.join(FILES)}, and the download failed (")
    assert message.endswith("the original .gz, or use --dataset rendered")
    assert same(load_digits("auto", tmp_path / "new"), tiny_rendered)
    assert caplog.messages == [f"WARNING: {message}. Using RENDERED DIGITS instead of MNIST"]


def test_missing_file_is_named(tiny_mnist):
    """And no other. Even `auto` does not render then."""
    (tiny_mnist.raw / FILES[1]).unlink()
    with pytest.raises(DataError, match=f" lacks {FILES[1]}, and the download failed") as error:
        load_digits("auto", tiny_mnist.folder)
    assert not isinstance(error.value, MnistUnavailable)


def test_archives_are_unpacked(tiny_mnist, monkeypatch, capfd):
    resources = []
    for file in FILES:
        path = tiny_mnist.raw / file
        content = gzip.compress(path.read_bytes())
        path.unlink()
        path.with_name(f"{file}.gz").write_bytes(content)
        resources.append((f"{file}.gz", hashlib.md5(content, usedforsecurity=False).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)
    assert same(load_digits("auto", tiny_mnist.folder), tiny_mnist.digits)
    assert capfd.readouterr().out == "", "stdout is for the training log"
