"""MNIST or a clear message: checksums, archives, downloads, folders, and the choice of source."""

import functools
import gzip
import hashlib
import http.server
import threading
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


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_files_are_read_and_left_unchanged(tiny_mnist, name):
    before = content_of(tiny_mnist.folder)
    assert same(load_digits(name, tiny_mnist.folder), tiny_mnist.digits)
    assert content_of(tiny_mnist.folder) == before


def test_unknown_dataset_is_an_error():
    with pytest.raises(ValueError, match="auto, mnist, rendered"):
        load_digits("no such dataset")


# --- Digits of another source -------------------------------------------------------------------

IMAGES = torch.full((CLASSES, 1, 28, 28), 100, dtype=torch.uint8)
LABELS = torch.arange(CLASSES)
GOOD = (IMAGES, LABELS)
REFUSED = {
    r"must be tensors: use torch.tensor": (IMAGES, LABELS.tolist()),
    r"must be uint8, got torch.float32; .* use \(255 \* images\)": (IMAGES / 255, LABELS),
    r"must be int64, got torch.int32; use labels.long": (IMAGES, LABELS.int()),
    r"it has no image; provide more, or take fewer for the other set": (IMAGES[:0], LABELS[:0]),
    r"shape \(N, 1, 28, 28\); use images.unsqueeze\(1\)": (IMAGES[:, 0], LABELS),
    rf"got \({CLASSES}, 1, 9, 28\); for another size": (IMAGES[:, :, :9], LABELS),
    rf"{CLASSES} images need as many labels, got the shape \(4,\)": (IMAGES, LABELS[:4]),
    rf"from 0 to {CLASSES - 1}, got .* {CLASSES}\]; .* subtract 1; .* change CLASSES": (
        IMAGES,
        LABELS + 1,
    ),
    rf"from 0 to {CLASSES - 1}, got \[-1, 0, ": (IMAGES, LABELS - 1),
}


@pytest.mark.parametrize("message", REFUSED)
@pytest.mark.parametrize("split", ["training", "test"])
def test_tensors_of_another_kind_are_refused(monkeypatch, split, message):
    bad = REFUSED[message]
    digits = Digits(*(bad + GOOD if split == "training" else GOOD + bad), "my-digits")
    monkeypatch.setitem(dataset.SOURCES, "my-digits", lambda _: digits)
    with pytest.raises(DataError, match=f"^my-digits, {split} set: .*{message}"):
        load_digits("my-digits")


WARNED = {
    "mostly light pixels; digits must be white on black, so use 255 - images": (
        IMAGES + 100,
        LABELS,
    ),
    "no pixel is above 1; pixels must be from 0 to 255, so multiply by 255": (IMAGES // 99, LABELS),
    "no image of [0]; were the digits sorted when you split them, "
    f"or are there fewer than {CLASSES} classes?": (IMAGES, LABELS.clamp(min=1)),
}


@pytest.mark.parametrize("message", WARNED)
def test_likely_mistakes_are_warned_of(monkeypatch, caplog, message):
    digits = Digits(*GOOD, *WARNED[message], "my-digits")
    monkeypatch.setitem(dataset.SOURCES, "my-digits", lambda _: digits)
    load_digits("my-digits")
    assert caplog.messages == [f"WARNING: my-digits, test set: {message}"]


# --- Damaged, incomplete and absent files -------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped bit", "empty"])
def test_damaged_file_is_refused_and_kept(tiny_mnist, damage):
    """By one line that names the file and says what to do."""
    path = tiny_mnist.raw / FILES[2]
    content = path.read_bytes()
    path.write_bytes(b"" if damage == "empty" else content[:-1] + bytes([content[-1] ^ 1]))
    before = content_of(tiny_mnist.folder)
    for name in ("mnist", "auto"):
        with pytest.raises(DataError) as error:
            load_digits(name, tiny_mnist.folder)
        message = f"{path} is damaged (its SHA-256 is wrong); move it away and run again"
        assert str(error.value).startswith(message)
    assert content_of(tiny_mnist.folder) == before


def test_absent_mnist_without_a_download(tiny_mnist, tiny_rendered, tmp_path, caplog):
    """`auto` warns once, with reason and place, and takes rendered digits; `mnist` does not."""
    folder = tmp_path / "new"
    with pytest.raises(MnistUnavailable) as error:
        load_digits("mnist", folder)
    message = str(error.value)
    raw = folder / "MNIST" / "raw"
    assert message.startswith(f"{raw} lacks {', '.join(FILES)}, and the download failed (")
    assert "refused" in message
    assert message.endswith("the original .gz, or use --dataset rendered")
    assert caplog.messages == []
    assert same(load_digits("auto", folder), tiny_rendered)
    assert caplog.messages == [
        f"WARNING: {' '.join(message.split())}. Using RENDERED DIGITS instead of MNIST"
    ]
    assert [path.name for path in folder.rglob("*")] == ["MNIST", "raw"], "no file is left behind"


@pytest.mark.parametrize("file", FILES)
def test_missing_file_is_named(tiny_mnist, file):
    """And no other, also if its archive is damaged. Even `auto` does not render then."""
    (tiny_mnist.raw / file).unlink()
    (tiny_mnist.raw / f"{file}.gz").write_bytes(b"damaged")
    before = content_of(tiny_mnist.folder)
    with pytest.raises(DataError, match=f" lacks {file}, and the download failed") as error:
        load_digits("auto", tiny_mnist.folder)
    assert not isinstance(error.value, MnistUnavailable)
    assert not any(other in str(error.value) for other in FILES if other != file)
    assert content_of(tiny_mnist.folder) == before


def test_folder_is_relative_to_where_the_user_stands(tiny_mnist, monkeypatch):
    """The argument goes before $MNIST_DATA_DIR; only the default, `data`, is beside model.py."""
    asked = []
    monkeypatch.setitem(dataset.SOURCES, "ask", lambda at: asked.append(at) or tiny_mnist.digits)
    monkeypatch.chdir(tiny_mnist.folder)
    monkeypatch.setenv("MNIST_DATA_DIR", "environment")
    load_digits("ask", "argument")
    load_digits("ask")
    monkeypatch.delenv("MNIST_DATA_DIR")
    load_digits("ask")
    assert asked == [Path.cwd() / "argument", Path.cwd() / "environment", ROOT / "data"]


# --- Archives and downloads ---------------------------------------------------------------------


def test_archives_are_unpacked_and_missing_files_are_downloaded(
    tiny_mnist, tmp_path, monkeypatch, capfd
):
    """Two archives lie in the folder, and a server on this machine has the others."""
    served = tmp_path / "served"
    served.mkdir()
    resources = []
    for number, file in enumerate(FILES):
        path = tiny_mnist.raw / file
        content = gzip.compress(path.read_bytes())
        ((served, tiny_mnist.raw)[number % 2] / f"{file}.gz").write_bytes(content)
        resources.append((f"{file}.gz", hashlib.md5(content, usedforsecurity=False).hexdigest()))
        path.unlink()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        # The interval is how long shutdown() takes.
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(MNIST, "resources", resources)
        assert same(load_digits("auto", tiny_mnist.folder), tiny_mnist.digits)
        server.shutdown()
    assert {path.name for path in tiny_mnist.raw.iterdir()} > set(FILES)
    assert capfd.readouterr().out == "", "stdout is for the training log"
