"""Genuine MNIST or a clear word: checksums, downloads, folders, and the choice of the source."""

import functools
import gzip
import hashlib
import http.server
import os
import threading
from pathlib import Path

import pytest
import torch
import torchvision

import dataset
from dataset import DataError, load_digits

HERE = Path(__file__).resolve().parent.parent


def test_digits_are_60000_and_10000_of_mnists_kind(digits):
    for images, labels, count in (
        (digits.images, digits.labels, 60_000),
        (digits.test_images, digits.test_labels, 10_000),
    ):
        assert (images.dtype, tuple(images.shape)) == (torch.uint8, (count, 1, 28, 28))
        assert (labels.dtype, tuple(labels.shape)) == (torch.int64, (count,))
        share = labels.bincount(minlength=10) / count
        assert len(share) == 10
        assert share.min() > 0.08


def test_mnist_is_what_torchvision_reads(digits):
    if digits.source != "mnist":
        pytest.skip("needs genuine MNIST")
    folder = HERE / (os.environ.get("MNIST_DATA_DIR") or "data")
    oracle = torchvision.datasets.MNIST(folder, train=False)
    assert torch.equal(digits.test_images[:, 0], oracle.data)
    assert torch.equal(digits.test_labels, oracle.targets)


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_files_are_read_as_they_are(tiny_mnist, name):
    for train, split in ((True, "train"), (False, "t10k")):
        images, labels, source = load_digits(train, name, tiny_mnist.folder)
        assert source == "mnist"
        assert torch.equal(images[:, 0], tiny_mnist.content[split][0])
        assert torch.equal(labels, tiny_mnist.content[split][1].long())


DAMAGE = {
    "flipped byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "flipped byte in the header": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "truncated": lambda content: content[:-5],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_damaged_file_is_refused_and_kept(tiny_mnist, name, kind, damage):
    """One line that names the file; never the stand-in instead, even if another file is missing."""
    path = tiny_mnist.raw / f"t10k-{kind}-ubyte"
    damaged = DAMAGE[damage](path.read_bytes())
    path.write_bytes(damaged)
    load_digits(True, name, tiny_mnist.folder)  # only files that are read have to be sound
    for absent in (None, "train-labels-idx1-ubyte"):
        if absent:
            (tiny_mnist.raw / absent).unlink()
        with pytest.raises(DataError, match=r"damaged.*delete") as error:
            load_digits(False, name, tiny_mnist.folder)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        assert path.read_bytes() == damaged


def test_unreadable_file_is_refused(tiny_mnist):
    path = tiny_mnist.raw / "t10k-labels-idx1-ubyte"
    path.unlink()
    path.mkdir()  # reads like a file without permission, for root as well
    with pytest.raises(DataError, match="cannot be read") as error:
        load_digits(False, "auto", tiny_mnist.folder)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("missing", [1, 4])
def test_missing_mnist_without_a_download(tiny_mnist, tiny_stand_in, caplog, missing):
    """`auto` warns once, with the reason, and takes the stand-in; `mnist` does not."""
    for name in list(dataset.MNIST_FILES)[:missing]:
        (tiny_mnist.raw / name).unlink()
    left = sorted(tiny_mnist.folder.rglob("*"))
    with pytest.raises(DataError, match=r"cannot be downloaded: .*refused"):
        load_digits(True, "mnist", tiny_mnist.folder)
    assert caplog.messages == []
    images, _, source = load_digits(True, "auto", tiny_mnist.folder)
    assert (source, images.shape) == ("rendered", tiny_stand_in[0].shape)
    (message,) = caplog.messages
    assert message.startswith("WARNING: ")
    assert "refused" in message
    assert "\n" not in message
    assert sorted(tiny_mnist.folder.rglob("*")) == left, "a failed download leaves nothing behind"


def test_data_folder_that_cannot_be_made(tiny_mnist, tiny_stand_in, tmp_path, caplog):
    """An error under `mnist`, the reason of the warning under `auto`."""
    (tmp_path / "file").write_text("not a folder")
    folder = tmp_path / "file" / "data"
    with pytest.raises(DataError, match="file"):
        load_digits(True, "mnist", folder)
    assert load_digits(True, "auto", folder)[2] == "rendered"
    assert str(folder) in caplog.text


@pytest.mark.parametrize("flag", [True, False], ids=["--data-dir", "MNIST_DATA_DIR"])
def test_relative_folder_is_the_same_from_everywhere(tiny_mnist, tmp_path, monkeypatch, flag):
    """Beside the scripts, as the default is; and a failed download does not make it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_DATA_DIR", "unused" if flag else "no-such-data/deep")
    with pytest.raises(DataError) as error:
        load_digits(True, "mnist", "no-such-data/deep" if flag else None)
    assert f"not in {HERE / 'no-such-data' / 'deep'} " in str(error.value)
    assert not (HERE / "no-such-data").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


@pytest.fixture
def mirror(tiny_mnist, tmp_path, monkeypatch):
    """Archives of the tiny MNIST where torchvision looks for them: a server on this machine."""
    served = tmp_path / "mirror"
    served.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    resources = []
    for name in dataset.MNIST_FILES:
        archive = served / f"{name}.gz"
        archive.write_bytes(gzip.compress((tiny_mnist.raw / name).read_bytes()))
        resources.append((archive.name, hashlib.md5(archive.read_bytes()).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    url = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
    yield served
    server.shutdown()
    server.server_close()


def test_download_fills_what_is_missing_and_leaves_the_rest(tiny_mnist, mirror, capfd):
    gone, kept = "train-images-idx3-ubyte", tiny_mnist.raw / "t10k-labels-idx1-ubyte"
    (tiny_mnist.raw / gone).unlink()
    before = kept.stat().st_mtime_ns, kept.stat().st_ino
    images, _, source = load_digits(True, "auto", tiny_mnist.folder)
    assert source == "mnist"
    assert torch.equal(images[:, 0], tiny_mnist.content["train"][0])
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before
    assert [path.name for path in tiny_mnist.folder.iterdir()] == ["MNIST"]
    assert sorted(path.name for path in tiny_mnist.raw.iterdir()) == sorted(dataset.MNIST_FILES)
    assert capfd.readouterr().out == "", "stdout is for the training log"


def test_download_into_a_new_folder(tiny_mnist, mirror, tmp_path):
    folder = tmp_path / "new" / "data"
    assert load_digits(False, "mnist", folder)[2] == "mnist"
    assert len(list((folder / "MNIST" / "raw").iterdir())) == 4


def test_interrupted_download_leaves_nothing(tiny_mnist, mirror, tmp_path, monkeypatch):
    """Ctrl-C after the first of the four files: no half set, no folder that was not there."""
    fetch = torchvision.datasets.mnist.download_and_extract_archive
    fetched = []

    def fetch_one(*args, **kwargs):
        if fetched:
            raise KeyboardInterrupt
        fetched.append(fetch(*args, **kwargs))

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch_one)
    with pytest.raises(KeyboardInterrupt):
        load_digits(True, "auto", tmp_path / "new" / "data")
    assert len(fetched) == 1
    assert not (tmp_path / "new").exists()


def test_archives_fetched_by_hand_need_no_network(tiny_mnist, mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    raw = tmp_path / "new" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in mirror.iterdir():
        (raw / archive.name).write_bytes(archive.read_bytes())
    assert load_digits(True, "mnist", tmp_path / "new")[2] == "mnist"
    assert len(list(raw.glob("*.gz"))) == 4, "the archives are left where they were"


def test_unknown_dataset_is_an_error():
    with pytest.raises(ValueError, match="auto, mnist, rendered"):
        load_digits(True, "emnist")
