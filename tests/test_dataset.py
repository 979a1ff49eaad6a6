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

LABELS = "t10k-labels-idx1-ubyte"


def same(digits, others):
    return digits.name == others.name and all(map(torch.equal, digits[:4], others[:4]))


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_mnist_and_rendered_digits_have_mnists_size(digits):
    if digits.name not in ("MNIST", "rendered digits"):
        pytest.skip("is about MNIST and rendered digits")
    assert (len(digits.images), len(digits.test_images)) == (60_000, 10_000)


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
def test_files_are_read_as_they_are(tiny_mnist, name):
    before = content_of(tiny_mnist.folder)
    assert same(load_digits(name, tiny_mnist.folder), tiny_mnist.digits)
    assert content_of(tiny_mnist.folder) == before


GOOD = torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            GOOD[0][:, 0],
            GOOD[1],
            r"uint8 \(N, 1, 28, 28\), N > 0, got uint8 \(10, 28, 28\); for another size",
        ),
        (GOOD[0] / 255, GOOD[1], r"got float32 \(10, 1, 28, 28\); for another size"),
        (GOOD[0][:0], GOOD[1][:0], r"N > 0, got uint8 \(0, 1, 28, 28\); for another size"),
        (
            GOOD[0],
            GOOD[1].int(),
            r"labels must be int64 \(10,\), got int32 \(10,\); for another size",
        ),
        (GOOD[0], GOOD[1][:4], r"labels must be int64 \(10,\), got int64 \(4,\); for another size"),
        (GOOD[0], GOOD[1] + 1, r"labels must be from 0 to 9, got .*10\]; .* change fc2 in model"),
        (GOOD[0], GOOD[1] - 1, r"labels must be from 0 to 9, got \[-1, 0, "),
    ],
)
def test_tensors_of_another_kind_are_refused(monkeypatch, images, labels, message):
    for digits, name in (((images, labels, *GOOD), "training"), ((*GOOD, images, labels), "test")):
        digits = Digits(*digits, "my-digits")
        monkeypatch.setitem(dataset.SOURCES, "my-digits", lambda _, digits=digits: digits)
        with pytest.raises(DataError, match=f"^my-digits, {name} set: .*{message}"):
            load_digits("my-digits")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD[0] + 200, GOOD[1], "mostly light pixels; digits must be white on black"),
        (GOOD[0], GOOD[1] % 9, "no image of [9]; were the digits sorted when you split them?"),
    ],
)
def test_likely_mistakes_are_warned_of(monkeypatch, caplog, images, labels, message):
    digits = Digits(*GOOD, images, labels, "my-digits")
    monkeypatch.setitem(dataset.SOURCES, "my-digits", lambda _: digits)
    load_digits("my-digits")
    assert caplog.messages == [f"WARNING: my-digits, test set: {message}"]


def test_unknown_dataset_is_an_error():
    with pytest.raises(ValueError, match="auto, mnist, rendered"):
        load_digits("no such dataset")


# --- Damaged files ------------------------------------------------------------------------------

DAMAGE = {
    "flipped byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "flipped byte in the header": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "truncated": lambda content: content[:-5],
    "empty": lambda content: b"",
    "longer": lambda content: content + bytes(9),
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
    train, test = (tiny_mnist.raw / f"{split}-labels-idx1-ubyte" for split in ("train", "t10k"))
    train.rename(tiny_mnist.raw / "other")
    test.rename(train)
    (tiny_mnist.raw / "other").rename(test)
    with pytest.raises(DataError, match="the train files of MNIST"):
        load_digits("auto", tiny_mnist.folder)


# --- Absent files -------------------------------------------------------------------------------


def test_absent_mnist_without_a_download(tiny_mnist, tiny_rendered, tmp_path, caplog):
    """`auto` warns once, with reason and place, and takes rendered digits; `mnist` does not."""
    folder = tmp_path / "new"
    with pytest.raises(Unavailable) as error:
        load_digits("mnist", folder)
    message = str(error.value)
    assert message.startswith(
        f"MNIST is not in {folder / 'MNIST' / 'raw'} and cannot be downloaded"
    )
    assert "refused" in message
    assert message.endswith("put its four files there, or use --dataset rendered")
    assert "\n" not in message
    assert caplog.messages == []
    assert same(load_digits("auto", folder), tiny_rendered)
    assert caplog.messages == [f"WARNING: {message}. Using RENDERED DIGITS instead of MNIST"]
    assert not folder.exists(), "a failed download leaves nothing behind"


@pytest.mark.parametrize("left", [LABELS, f"{LABELS}.gz"])
def test_incomplete_mnist_is_not_taken_for_absent(tiny_mnist, left):
    """Who has put files there expects MNIST, so even `auto` does not render."""
    path = tiny_mnist.raw / LABELS
    path.with_name(f"{LABELS}.gz").write_bytes(b"damaged")
    for other in list(tiny_mnist.raw.iterdir()):
        if other.name != left:
            other.unlink()
    with pytest.raises(DataError, match="incomplete or damaged in ") as error:
        load_digits("auto", tiny_mnist.folder)
    assert not isinstance(error.value, Unavailable)
    assert [path.name for path in tiny_mnist.raw.iterdir()] == [left]


def test_relative_folder_is_relative_to_where_the_user_stands(tiny_mnist, monkeypatch):
    """Only the default, `data`, is beside model.py."""
    monkeypatch.chdir(tiny_mnist.folder.parent)
    assert same(load_digits("mnist", "digits"), tiny_mnist.digits)
    monkeypatch.setenv("MNIST_DATA_DIR", "no such folder")
    assert same(load_digits("mnist", "digits"), tiny_mnist.digits), "the argument goes first"
    monkeypatch.setenv("MNIST_DATA_DIR", "digits")
    assert same(load_digits("mnist"), tiny_mnist.digits)
    monkeypatch.delenv("MNIST_DATA_DIR")
    asked = []
    monkeypatch.setitem(
        dataset.SOURCES, "ask", lambda path: asked.append(path) or tiny_mnist.digits
    )
    load_digits("ask")
    assert asked == [ROOT / "data"]


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


def test_archives_need_no_download(tiny_mnist, archives, capfd):
    """They are unpacked beside themselves; a folder that cannot be written works too."""
    for file in FILES:
        (tiny_mnist.raw / file).unlink()
        (archives / f"{file}.gz").rename(tiny_mnist.raw / f"{file}.gz")
    assert same(load_digits("auto", tiny_mnist.folder), tiny_mnist.digits)
    names = {path.name for path in tiny_mnist.raw.iterdir()}
    assert names == {*FILES, *(f"{file}.gz" for file in FILES)}
    assert capfd.readouterr().out == "", "stdout is for the training log"


def test_folder_that_cannot_be_written(tiny_mnist, mirror, tmp_path, caplog):
    """MNIST is used, and a warning says why it was not stored. Here the folder is a file."""
    (tmp_path / "file").write_text("not a folder")
    assert same(load_digits("mnist", tmp_path / "file"), tiny_mnist.digits)
    (message,) = caplog.messages
    assert message.startswith(f"WARNING: MNIST cannot be stored in {tmp_path / 'file' / 'MNIST'}")


@pytest.fixture
def mirror(archives, monkeypatch):
    """The archives where torchvision looks for them: a server on this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=archives)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # The interval is how long shutdown() takes.
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    urls = ["http://127.0.0.1:9/", f"http://127.0.0.1:{server.server_port}/"]  # The first is down.
    monkeypatch.setattr(MNIST, "mirrors", urls)
    yield archives
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("missing", [1, 4])
def test_download_stores_what_is_missing(tiny_mnist, mirror, capfd, missing):
    kept = tiny_mnist.raw / FILES[missing - 1]
    for file in FILES[:missing]:
        (tiny_mnist.raw / file).unlink()
    before = {path: path.stat().st_ino for path in tiny_mnist.raw.iterdir()}
    assert same(load_digits("auto", tiny_mnist.folder), tiny_mnist.digits)
    assert sorted(path.name for path in tiny_mnist.raw.iterdir()) == sorted(FILES)
    assert all(path.stat().st_ino == inode for path, inode in before.items())
    assert kept.exists()
    assert capfd.readouterr().out == "", "stdout is for the training log"


def test_wrong_content_of_a_mirror_is_not_stored(mirror, tmp_path):
    for archive in mirror.iterdir():
        archive.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match=r"cannot be downloaded: .*corrupted"):
        load_digits("mnist", tmp_path / "new")
    assert not (tmp_path / "new").exists()


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
