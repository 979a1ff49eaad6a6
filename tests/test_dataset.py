"""MNIST or a clear message: checksums, archives, downloads, folders, and the choice of source."""

import functools
import gzip
import hashlib
import http.server
import os
import threading
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from torchvision.datasets import MNIST

from support import dataset
from support.dataset import FILES, DataError, Digits, Unavailable, load_digits


def same(digits, others):
    return digits.name == others.name and all(map(torch.equal, digits[:4], others[:4]))


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_checksums_are_those_of_mnists_files(digits):
    """The bytes after the headers of the files, which are those with the published MD5."""
    if digits.name != "MNIST":
        pytest.skip("needs MNIST")
    raw = Path(os.environ.get("MNIST_DATA_DIR") or ROOT / "data", "MNIST", "raw")
    published = "6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624 "
    published += "2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637"
    contents = [(raw / file).read_bytes() for file in FILES]
    found = [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in contents]
    assert found == published.split()
    for split, (images, labels) in {"train": contents[:2], "t10k": contents[2:]}.items():
        assert hashlib.sha256(images[16:] + labels[8:]).hexdigest() == dataset.SHA256[split]


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_files_are_read_and_left_unchanged(tiny_mnist, name):
    before = content_of(tiny_mnist.folder)
    assert same(load_digits(name, tiny_mnist.folder), tiny_mnist.digits)
    assert content_of(tiny_mnist.folder) == before


def test_unknown_dataset_is_an_error():
    with pytest.raises(ValueError, match="auto, mnist, rendered"):
        load_digits("no such dataset")


# --- Digits of another source -------------------------------------------------------------------

IMAGES, LABELS = torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10)
GOOD = (IMAGES, LABELS)
REFUSED = {
    r"uint8 and labels int64, got torch.float32 and torch.int64": (IMAGES / 255, LABELS),
    r"uint8 and labels int64, got torch.uint8 and torch.int32": (IMAGES, LABELS.int()),
    r"shape \(N, 1, 28, 28\), N > 0, got \(10, 28, 28\); for another size": (IMAGES[:, 0], LABELS),
    r"shape \(N, 1, 28, 28\), N > 0, got \(0, 1, 28, 28\)": (IMAGES[:0], LABELS[:0]),
    r"10 images need labels of the shape \(10,\), got \(4,\)": (IMAGES, LABELS[:4]),
    r"from 0 to 9, got .* 10\]; for other classes, change fc2": (IMAGES, LABELS + 1),
    r"from 0 to 9, got \[-1, 0, ": (IMAGES, LABELS - 1),
}


@pytest.mark.parametrize("message", REFUSED)
@pytest.mark.parametrize("split", ["training", "test"])
def test_tensors_of_another_kind_are_refused(monkeypatch, split, message):
    bad = REFUSED[message]
    digits = Digits(*(bad + GOOD if split == "training" else GOOD + bad), "my-digits")
    monkeypatch.setitem(dataset.SOURCES, "my-digits", lambda _: digits)
    with pytest.raises(DataError, match=f"^my-digits, {split} set: .*{message}"):
        load_digits("my-digits")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES + 200, LABELS, "mostly light pixels; digits must be white on black"),
        (IMAGES, LABELS % 9, "no image of [9]; were the digits sorted when you split them?"),
    ],
)
def test_likely_mistakes_are_warned_of(monkeypatch, caplog, images, labels, message):
    digits = Digits(IMAGES, LABELS, images, labels, "my-digits")
    monkeypatch.setitem(dataset.SOURCES, "my-digits", lambda _: digits)
    load_digits("my-digits")
    assert caplog.messages == [f"WARNING: my-digits, test set: {message}"]


# --- Damaged, incomplete and absent files -------------------------------------------------------

DAMAGE = {
    "flipped byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "truncated": lambda content: content[:-5],
    "empty": lambda content: b"",
    "random": lambda content: os.urandom(len(content)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_damaged_file_is_refused_and_kept(tiny_mnist, file, damage):
    """By one line that names the split and the folder, and says what to do."""
    path = tiny_mnist.raw / file
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    before = content_of(tiny_mnist.folder)
    for name in ("mnist", "auto"):
        with pytest.raises(DataError) as error:
            load_digits(name, tiny_mnist.folder)
        message = str(error.value)
        assert message.startswith(f"the {file.split('-')[0]} files of MNIST in {tiny_mnist.raw} ")
        assert "move them away and run again" in message
    assert content_of(tiny_mnist.folder) == before


def test_swapped_files_are_damaged(tiny_mnist):
    for kind in dataset.KINDS:
        train, test = (tiny_mnist.raw / f"{split}-{kind}" for split in ("train", "t10k"))
        content = train.read_bytes()
        train.write_bytes(test.read_bytes())
        test.write_bytes(content)
    with pytest.raises(DataError, match="the train files of MNIST"):
        load_digits("auto", tiny_mnist.folder)


def test_absent_mnist_without_a_download(tiny_mnist, tiny_rendered, tmp_path, caplog):
    """`auto` warns once, with reason and place, and takes rendered digits; `mnist` does not."""
    folder = tmp_path / "new"
    with pytest.raises(Unavailable) as error:
        load_digits("mnist", folder)
    message = str(error.value)
    raw = folder / "MNIST" / "raw"
    assert message.startswith(f"MNIST is not in {raw} and cannot be downloaded: ")
    assert "refused" in message
    assert message.endswith("; put its four files there, or use --dataset rendered")
    assert "\n" not in message
    assert caplog.messages == []
    assert same(load_digits("auto", folder), tiny_rendered)
    assert caplog.messages == [f"WARNING: {message}. Using RENDERED DIGITS instead of MNIST"]
    assert not folder.exists(), "a failed download leaves nothing behind"


@pytest.mark.parametrize("left", [FILES[3], f"{FILES[3]}.gz"])
def test_incomplete_mnist_is_not_taken_for_absent(tiny_mnist, left):
    """Who has put files there expects MNIST, so even `auto` does not render."""
    for file in FILES:
        (tiny_mnist.raw / file).unlink()
    (tiny_mnist.raw / left).write_bytes(b"damaged")
    with pytest.raises(DataError, match="incomplete or damaged in ") as error:
        load_digits("auto", tiny_mnist.folder)
    assert not isinstance(error.value, Unavailable)
    assert [path.name for path in tiny_mnist.raw.iterdir()] == [left]


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


@pytest.fixture
def archives(tiny_mnist, tmp_path, monkeypatch):
    """A folder with the four archives of the tiny MNIST, whose MD5 count as MNIST's."""
    folder = tmp_path / "archives"
    folder.mkdir()
    resources = []
    for file in FILES:
        content = gzip.compress((tiny_mnist.raw / file).read_bytes())
        (folder / f"{file}.gz").write_bytes(content)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        resources.append((f"{file}.gz", md5))
    monkeypatch.setattr(MNIST, "resources", resources)
    return folder


@pytest.fixture
def mirror(archives, monkeypatch):
    """The archives where torchvision looks for them: a server on this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=archives)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # The interval is how long shutdown() takes.
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    yield
    server.shutdown()
    server.server_close()


def test_archives_need_no_download(tiny_mnist, archives):
    """Nobody listens where downloads go. The archives are kept, beside the unpacked files."""
    for file in FILES:
        (tiny_mnist.raw / file).unlink()
        (archives / f"{file}.gz").rename(tiny_mnist.raw / f"{file}.gz")
    assert same(load_digits("auto", tiny_mnist.folder), tiny_mnist.digits)
    names = {path.name for path in tiny_mnist.raw.iterdir()}
    assert names == {*FILES, *(f"{file}.gz" for file in FILES)}


@pytest.mark.parametrize("missing", [1, 4])
def test_download_stores_what_is_missing(tiny_mnist, mirror, capfd, missing):
    for file in FILES[:missing]:
        (tiny_mnist.raw / file).unlink()
    before = {path: path.stat().st_ino for path in tiny_mnist.raw.iterdir()}
    assert same(load_digits("auto", tiny_mnist.folder), tiny_mnist.digits)
    assert sorted(path.name for path in tiny_mnist.raw.iterdir()) == sorted(FILES)
    assert all(path.stat().st_ino == inode for path, inode in before.items()), "a file was replaced"
    assert capfd.readouterr().out == "", "stdout is for the training log"


def test_folder_that_cannot_be_written(tiny_mnist, mirror, tmp_path, caplog):
    """MNIST is used, and a warning says why it was not stored. Here the folder is a file."""
    (tmp_path / "file").write_text("not a folder")
    assert same(load_digits("mnist", tmp_path / "file"), tiny_mnist.digits)
    (message,) = caplog.messages
    assert message.startswith(f"WARNING: MNIST cannot be stored in {tmp_path / 'file' / 'MNIST'}")


def test_interrupted_download_leaves_nothing(mirror, tmp_path, monkeypatch):
    """Ctrl-C after the first of the four files: no partial set, no new folder."""
    fetched = []

    def fetch(url, download_root, filename, md5):
        if fetched:
            raise KeyboardInterrupt
        fetched.append(Path(download_root, filename.removesuffix(".gz")))
        fetched[0].write_bytes(b"")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    with pytest.raises(KeyboardInterrupt):
        load_digits("auto", tmp_path / "new" / "data")
    assert not (tmp_path / "new").exists()
    assert not fetched[0].exists()
