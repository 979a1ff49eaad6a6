"""MNIST or a clear message: checksums, archives, downloads, folders, and the choice of source."""

import errno
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
from helpers import HERE

from support import dataset
from support.dataset import DataError, Digits, Unavailable, load_digits

LABELS = "t10k-labels-idx1-ubyte"


def same(digits, others):
    return digits.source == others.source and all(map(torch.equal, digits[:4], others[:4]))


def test_digits_are_60000_and_10000_of_mnists_kind(digits):
    """If this fails on data of your own: adapt the numbers."""
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
        pytest.skip("needs MNIST")
    folder = HERE / Path(os.environ.get("MNIST_DATA_DIR") or "data").expanduser()
    for train, images, labels in (
        (True, digits.images, digits.labels),
        (False, digits.test_images, digits.test_labels),
    ):
        oracle = torchvision.datasets.MNIST(folder, train=train)
        assert torch.equal(images[:, 0], oracle.data)
        assert torch.equal(labels, oracle.targets)


def test_sizes_follow_from_the_format():
    """A header of 16 or 8 bytes, and one byte per pixel or label."""
    counts = {"train": 60_000, "t10k": 10_000}
    sizes = {f"{split}-images-idx3-ubyte": 16 + 784 * n for split, n in counts.items()}
    sizes |= {f"{split}-labels-idx1-ubyte": 8 + n for split, n in counts.items()}
    assert {name: size for name, (size, _) in dataset.MNIST_FILES.items()} == sizes


def test_name_of_the_source():
    empty = [torch.empty(0)] * 4
    names = [Digits(*empty, source).name for source in ("mnist", "rendered", "my digits")]
    assert names == ["MNIST", "rendered digits", "my digits"]


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_files_are_read_as_they_are(tiny_mnist, name):
    assert same(load_digits(name, tiny_mnist.folder), tiny_mnist.digits)


GOOD = torch.zeros(5, 1, 28, 28, dtype=torch.uint8), torch.arange(5)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD[0][:, 0], GOOD[1], r"uint8 \(N, 1, 28, 28\), N > 0, got uint8 \(5, 28, 28\)"),
        (GOOD[0] / 255, GOOD[1], r"got float32 \(5, 1, 28, 28\)"),
        (GOOD[0][:0], GOOD[1][:0], r"N > 0, got uint8 \(0, 1, 28, 28\)"),
        (GOOD[0], GOOD[1].int(), r"labels must be int64 \(5,\), got int32 \(5,\)"),
        (GOOD[0], GOOD[1][:4], r"labels must be int64 \(5,\), got int64 \(4,\)"),
        (GOOD[0], GOOD[1] + 6, r"labels must be from 0 to 9, got \[6, 7, 8, 9, 10\]"),
        (GOOD[0], GOOD[1] - 1, r"labels must be from 0 to 9, got \[-1, 0, 1, 2, 3\]"),
    ],
)
def test_tensors_of_another_kind_are_refused(monkeypatch, images, labels, message):
    for digits, name in (((images, labels, *GOOD), "training"), ((*GOOD, images, labels), "test")):
        digits = Digits(*digits, "my-digits")
        monkeypatch.setitem(dataset.SOURCES, "my-digits", lambda _, digits=digits: digits)
        with pytest.raises(DataError, match=f"^my-digits, {name} set: .*{message}$"):
            load_digits("my-digits")


def test_unknown_dataset_is_an_error():
    with pytest.raises(ValueError, match="auto, mnist, rendered"):
        load_digits("no such dataset")


# --- Damaged files ----------------------------------------------------------------------------

DAMAGE = {
    "flipped byte": (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "SHA-256"),
    "flipped byte in the header": (lambda content: bytes([content[0] ^ 1]) + content[1:], "SHA"),
    "truncated": (lambda content: content[:-5], r"it has [\d,]+ bytes instead of [\d,]+;"),
    "empty": (lambda content: b"", r"it has 0 bytes instead of [\d,]+;"),
    "longer": (lambda content: content + bytes(9), r"it has at least [\d,]+ bytes instead of"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "packed"])
@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_damaged_file_is_refused_and_kept(tiny_mnist, name, packed, damage):
    """The message names it; it is never replaced, even if another file is missing."""
    damaging, message = DAMAGE[damage]
    path = tiny_mnist.raw / LABELS
    content = damaging(path.read_bytes())
    path.unlink()
    if packed:
        path = path.with_name(f"{LABELS}.gz")
        content = gzip.compress(content)
    path.write_bytes(content)
    for absent in (None, "train-labels-idx1-ubyte"):
        if absent:
            (tiny_mnist.raw / absent).unlink()
        with pytest.raises(DataError, match=f"damaged: .*{message}.* delete it") as error:
            load_digits(name, tiny_mnist.folder)
        assert str(error.value).startswith(f"{path} ")
        assert "\n" not in str(error.value)
        assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"no archive", gzip.compress(bytes(18))[:-9]])
def test_archive_that_cannot_be_unpacked_is_damaged(tiny_mnist, content):
    path = tiny_mnist.raw / LABELS
    path.unlink()
    path.with_name(f"{LABELS}.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"ubyte\.gz is damaged: "):
        load_digits("auto", tiny_mnist.folder)


@pytest.mark.parametrize("kind", ["folder", "dangling link", "endless device", "pipe"])
def test_anything_but_a_regular_file_is_refused(tiny_mnist, kind):
    """At once: a pipe without a writer would hang, and /dev/zero never ends."""
    path = tiny_mnist.raw / LABELS
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif os.name != "posix":
        pytest.skip("needs the special files of POSIX")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "endless device" else path.with_name("gone"))
    with pytest.raises(DataError, match="not a regular file") as error:
        load_digits("auto", tiny_mnist.folder)
    assert str(path) in str(error.value)


def test_inaccessible_file_is_not_taken_for_absent(tiny_mnist, monkeypatch):
    """From Python 3.14 on, exists() is False in a folder that may not be entered."""

    def refused(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "lstat", refused)
    with pytest.raises(DataError, match="cannot be read") as error:
        load_digits("auto", tiny_mnist.folder)
    assert not isinstance(error.value, Unavailable)


# --- Absent files -----------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [1, 4])
def test_archives_need_no_download(tiny_mnist, packed):
    """However packed: the checksum is that of the unpacked content. Nothing is written."""
    for name in list(dataset.MNIST_FILES)[:packed]:
        path = tiny_mnist.raw / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
    left = sorted(tiny_mnist.raw.iterdir())
    for name in ("mnist", "auto"):
        assert same(load_digits(name, tiny_mnist.folder), tiny_mnist.digits)
    assert sorted(tiny_mnist.raw.iterdir()) == left


@pytest.mark.parametrize("missing", [1, 4])
def test_missing_mnist_without_a_download(tiny_mnist, tiny_rendered, caplog, missing):
    """`auto` warns once, with the reason, and takes rendered digits; `mnist` does not."""
    for name in list(dataset.MNIST_FILES)[:missing]:
        (tiny_mnist.raw / name).unlink()
    left = sorted(tiny_mnist.folder.rglob("*"))
    refused = rf"cannot be downloaded: .*(\b{errno.ECONNREFUSED}|10061)\b"  # and on Windows
    with pytest.raises(DataError, match=f"{refused}.*--dataset rendered"):
        load_digits("mnist", tiny_mnist.folder)
    assert caplog.messages == []
    digits = load_digits("auto", tiny_mnist.folder)
    assert same(digits, Digits(*tiny_rendered, *tiny_rendered, "rendered"))
    (message,) = caplog.messages
    assert message.startswith("WARNING: MNIST is not complete in ")
    assert "RENDERED DIGITS" in message
    assert "\n" not in message
    assert sorted(tiny_mnist.folder.rglob("*")) == left, "a failed download leaves nothing behind"


@pytest.mark.parametrize("mirror", ["http://proxy..corp:3128/", "http://[::1/"])
def test_invalid_mirror_address_counts_as_a_failed_download(
    tiny_mnist, tiny_rendered, monkeypatch, mirror
):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mirror])
    (tiny_mnist.raw / LABELS).unlink()
    assert load_digits("auto", tiny_mnist.folder).source == "rendered"


def test_data_folder_that_cannot_be_made(tiny_mnist, tiny_rendered, tmp_path, caplog):
    """An error under `mnist`, the reason of the warning under `auto`."""
    (tmp_path / "file").write_text("not a folder")
    folder = tmp_path / "file" / "data"
    with pytest.raises(DataError, match="file"):
        load_digits("mnist", folder)
    assert load_digits("auto", folder).source == "rendered"
    assert str(folder) in caplog.text


@pytest.mark.parametrize("flag", [True, False], ids=["--data-dir", "MNIST_DATA_DIR"])
def test_relative_folder_is_the_same_from_everywhere(tiny_mnist, tmp_path, monkeypatch, flag):
    """Beside model.py, as the default is; and a failed download does not create it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_DATA_DIR", "unused" if flag else "no-such-data/deep")
    with pytest.raises(DataError) as error:
        load_digits("mnist", "no-such-data/deep" if flag else None)
    assert f"not complete in {HERE / 'no-such-data' / 'deep'} " in str(error.value)
    assert not (HERE / "no-such-data").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_tilde_is_the_home_folder(tiny_mnist, monkeypatch):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tiny_mnist.folder.parent))
    assert same(load_digits("mnist", "~/digits"), tiny_mnist.digits)
    monkeypatch.setenv("MNIST_DATA_DIR", "~/digits")
    assert same(load_digits("mnist"), tiny_mnist.digits)


@pytest.fixture
def mirror(tiny_mnist, tmp_path, monkeypatch):
    """Archives of the tiny MNIST where torchvision looks for them: a server on this machine."""
    served = tmp_path / "mirror"
    served.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # The interval is how long shutdown() takes.
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    resources = []
    for name in dataset.MNIST_FILES:
        archive = served / f"{name}.gz"
        archive.write_bytes(gzip.compress((tiny_mnist.raw / name).read_bytes()))
        md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
        resources.append((archive.name, md5))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    urls = ["http://127.0.0.1:9/", f"http://127.0.0.1:{server.server_port}/"]  # The first is down.
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", urls)
    yield served
    server.shutdown()
    server.server_close()


def test_download_fetches_only_what_is_missing(tiny_mnist, mirror, capfd):
    gone, kept = "train-images-idx3-ubyte", tiny_mnist.raw / LABELS
    (tiny_mnist.raw / gone).unlink()
    for archive in mirror.iterdir():
        if archive.name != f"{gone}.gz":
            archive.unlink()
    before = kept.stat().st_mtime_ns, kept.stat().st_ino
    assert same(load_digits("auto", tiny_mnist.folder), tiny_mnist.digits)
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before
    assert [path.name for path in tiny_mnist.folder.iterdir()] == ["MNIST"]
    assert sorted(path.name for path in tiny_mnist.raw.iterdir()) == sorted(dataset.MNIST_FILES)
    assert capfd.readouterr().out == "", "stdout is for the training log"


def test_download_into_a_new_folder(tiny_mnist, mirror, tmp_path):
    folder = tmp_path / "new" / "data"
    assert same(load_digits("mnist", folder), tiny_mnist.digits)
    assert len(list((folder / "MNIST" / "raw").iterdir())) == 4


def test_wrong_content_of_a_mirror_is_not_stored(tiny_mnist, mirror, tmp_path):
    for archive in mirror.iterdir():
        archive.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match=r"cannot be downloaded: .*corrupted"):
        load_digits("mnist", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_interrupted_download_leaves_nothing(tiny_mnist, mirror, tmp_path, monkeypatch):
    """Ctrl-C after the first of the four files: no partial set, no new folder."""
    fetch = dataset.download
    fetched = []

    def fetch_one(name):
        if fetched:
            raise KeyboardInterrupt
        fetched.append(fetch(name))
        return fetched[0]

    monkeypatch.setattr(dataset, "download", fetch_one)
    with pytest.raises(KeyboardInterrupt):
        load_digits("auto", tmp_path / "new" / "data")
    assert len(fetched) == 1
    assert not (tmp_path / "new").exists()


def test_full_disk_during_download_is_an_error(tiny_mnist, mirror, tmp_path, monkeypatch):
    def full_disk(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(dataset, "write_whole", full_disk)
    with pytest.raises(DataError, match=f"cannot be downloaded: .*{errno.ENOSPC}"):
        load_digits("mnist", tmp_path / "new")
