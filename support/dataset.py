"""Where the digits come from: MNIST, or rendered digits on a machine that cannot get MNIST.

torchvision downloads MNIST. A file of it is used only if its checksum is right.
"""

import contextlib
import gzip
import http.client
import logging
import os
import socket
import sys
import tempfile
import zlib
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch

from support.files import expand_user, write_whole

# Size in bytes and SHA-256 of the four files of MNIST (LeCun, Cortes, Burges), unpacked. They were
# computed from files whose MD5 is the published one; torchvision checks the archives by MD5.
MNIST_FILES = {
    "train-images-idx3-ubyte": (
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}


class DataError(Exception):
    """Data that is missing or damaged; the text says what is wrong, where, and what to do."""


class Unavailable(DataError):
    """MNIST is absent and could not be downloaded, as opposed to present and damaged."""


class Digits(NamedTuple):
    """A training set, a test set, and the name of their source.

    Images are uint8 `(N, 1, 28, 28)`, white digits on black; labels are int64 `(N,)` in 0..9.
    """

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    source: str

    @property
    def name(self):
        """The source as logs, pictures and tables name it."""
        return {"mnist": "MNIST", "rendered": "rendered digits"}.get(self.source, self.source)


def load_digits(dataset="auto", data_dir=None):
    """Return the training and test digits.

    Args:
        dataset: a name in SOURCES. "mnist"; "rendered"; or "auto" for MNIST if it is there or can
            be downloaded, and otherwise a warning and rendered digits.
        data_dir: the folder that holds or gets `MNIST/raw`. A relative path is relative to the
            folder of model.py. If None, `$MNIST_DATA_DIR` or else `data`.

    Returns:
        Digits. The source of "auto" is "mnist" or "rendered".

    Raises:
        DataError: a file of MNIST is damaged or unreadable, or `dataset` is "mnist" and MNIST is
            unavailable, or the tensors of another source are not as Digits says.
        ValueError: `dataset` is unknown.
    """
    if dataset not in SOURCES:
        raise ValueError(f"dataset must be one of {', '.join(SOURCES)}, got {dataset!r}")
    data_dir = expand_user(data_dir or os.environ.get("MNIST_DATA_DIR") or "data")
    digits = SOURCES[dataset](Path(__file__).resolve().parent.parent / data_dir)
    check(digits.images, digits.labels, f"{digits.name}, training set")
    check(digits.test_images, digits.test_labels, f"{digits.name}, test set")
    return digits


def check(images, labels, what):
    """Raise DataError unless images and labels are as Digits says; `what` names them."""
    count = len(images)
    if count == 0 or (images.dtype, images.shape) != (torch.uint8, (count, 1, 28, 28)):
        wanted, got = "images must be uint8 (N, 1, 28, 28), N > 0", images
    elif (labels.dtype, labels.shape) != (torch.int64, (count,)):
        wanted, got = f"labels must be int64 ({count},)", labels
    elif labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{what}: labels must be from 0 to 9, got {labels.unique().tolist()}")
    else:
        return
    dtype = str(got.dtype).removeprefix("torch.")
    raise DataError(f"{what}: {wanted}, got {dtype} {tuple(got.shape)}")


def load_mnist_or_rendered(data_dir):
    """Return MNIST, or rendered digits after a warning that says why MNIST is unavailable."""
    try:
        return load_mnist(data_dir)
    except Unavailable as error:
        logging.getLogger(__name__).warning(  # on stderr, unless the caller sets up logging
            "WARNING: %s. Using RENDERED DIGITS instead of MNIST", error
        )
        return load_rendered(data_dir)


def load_rendered(data_dir):
    """Return rendered digits, as many as MNIST has; `data_dir` is not used."""
    from support.rendered import render  # MNIST does not need Pillow and matplotlib.

    return Digits(*render(60_000, seed=0), *render(10_000, seed=1), "rendered")


def load_mnist(data_dir):
    """Return MNIST as Digits, after downloading the files that are absent.

    Raises:
        Unavailable: a file is absent and cannot be downloaded.
        DataError: a file is damaged or cannot be read.
    """
    raw = data_dir / "MNIST" / "raw"
    content = {name: read_verified(raw / name) for name in MNIST_FILES}
    absent = [name for name in MNIST_FILES if content[name] is None]
    try:
        content |= {name: download(name) for name in absent}  # All, before anything is written.
        for name in absent:
            raw.mkdir(parents=True, exist_ok=True)
            write_whole(raw / name, content[name])
    except (OSError, Unavailable) as error:
        raise Unavailable(
            f"MNIST is not complete in {data_dir} and cannot be downloaded: {error}; "
            "put its files there by hand, or use --dataset rendered"
        ) from error
    # The checksum covers the header too, so the layout is known. Parsing the bytes that were
    # hashed saves a second reading, and the import of torchvision, which takes longer than that.
    tensors = []
    for split in ("train", "t10k"):
        images = torch.frombuffer(content[f"{split}-images-idx3-ubyte"], dtype=torch.uint8)
        labels = torch.frombuffer(content[f"{split}-labels-idx1-ubyte"], dtype=torch.uint8)
        tensors += [images[16:].view(-1, 1, 28, 28), labels[8:].long()]
    return Digits(*tensors, "mnist")


def read_verified(path):
    """Return the bytes of a file of MNIST, unpacked if only `path`.gz is there, or None.

    Raises DataError if the file is damaged or cannot be read.
    """
    size, published = MNIST_FILES[path.name]
    for file, open_file in ((path, open), (path.with_name(f"{path.name}.gz"), gzip.open)):
        try:
            file.lstat()  # Unlike exists(), it distinguishes absent from inaccessible.
            if not file.is_file():  # a folder, a dangling link, or what could be read for ever
                raise DataError(f"{file} is not a regular file; move it away and run again")
            with open_file(file, "rb") as stream:
                content = bytearray(stream.read(size + 1))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            wrong = f"it cannot be unpacked ({error})"
        except OSError as error:
            raise DataError(
                f"{file} cannot be read: {error.strerror}; check its permissions"
            ) from error
        else:
            found = sha256(content).hexdigest()
            if found == published:
                return content
            wrong = f"it has SHA-256 {found} instead of {published}"
            if len(content) != size:
                at_least = "at least " if len(content) > size else ""
                wrong = f"it has {at_least}{len(content):,} bytes instead of {size:,}"
        raise DataError(f"{file} is damaged: {wrong}; delete it and run again to download it")
    return None


def download(name):
    """Return the bytes of a file of MNIST from the first of torchvision's mirrors that has it.

    Raises Unavailable, with every mirror's reason, if none has it.
    """
    from torchvision.datasets import MNIST  # It takes a second to import, and is needed once.
    from torchvision.datasets.utils import download_url

    errors = []
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # Seconds. A silent server would hold us for minutes.
    try:
        for mirror in MNIST.mirrors:
            url = f"{mirror}{name}.gz"
            # If this process is killed, the system cleans up its folder of temporary files. And
            # torchvision may print, but stdout is for the training log.
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
                try:
                    download_url(url, folder, md5=dict(MNIST.resources)[f"{name}.gz"])
                    return read_verified(Path(folder, name))
                # urllib raises ValueError for a bad address, torchvision RuntimeError for a file
                # of wrong content.
                except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
                    errors.append(f"{url}: {' '.join(str(error).split())}")
    finally:
        socket.setdefaulttimeout(timeout)
    raise Unavailable("; ".join(errors))


# The values of --dataset -> functions that return Digits, given the data folder. Another source is
# one function and one more line.
SOURCES = {
    "auto": load_mnist_or_rendered,
    "mnist": load_mnist,
    "rendered": load_rendered,
}
