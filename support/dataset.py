"""Where the digits come from: MNIST, or rendered digits on a machine that cannot get MNIST.

For digits of your own, see .github/CONTRIBUTING.md.
"""

import contextlib
import hashlib
import os
import socket
import sys
from pathlib import Path

from support.digits import ROOT, DataError, Digits, check, warn

# The SHA-256 of MNIST's files (LeCun, Cortes, Burges), unpacked from archives whose MD5 is the one
# that torchvision publishes.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FILES = list(SHA256)


class MnistUnavailable(DataError):
    """MNIST is absent and could not be downloaded, as opposed to incomplete or damaged."""


def default_dataset():
    """Return the name that `$MNIST_DATASET` sets, or "auto"."""
    return os.environ.get("MNIST_DATASET") or "auto"


def data_folder(data_dir=None):
    """Return the full Path of `data_dir`, or of `$MNIST_DATA_DIR`, or of `data` beside model.py.

    Raises:
        DataError: it begins with the home of a user who does not exist.
    """
    data_dir = Path(data_dir or os.environ.get("MNIST_DATA_DIR") or ROOT / "data")
    try:
        return data_dir.expanduser().absolute()
    except RuntimeError as error:
        raise DataError(f"there is no folder {data_dir}: {error}") from error


def load_digits(dataset=None, data_dir=None):
    """Return the training and test digits.

    Args:
        dataset: a name in SOURCES. "mnist"; "rendered"; or "auto" for MNIST if it is there or can
            be downloaded, and otherwise a warning and rendered digits. If None, `$MNIST_DATASET`
            or else "auto".
        data_dir: the folder that holds or gets `MNIST/raw`. If None, `$MNIST_DATA_DIR` or else
            `data` beside model.py.

    Returns:
        Digits, named "MNIST" or "rendered digits", or as another source calls them.

    Raises:
        DataError: a file of MNIST is missing or damaged (with "auto", only if others are there),
            or the tensors of another source are not as Digits says.
        OSError: a file cannot be read.
        ValueError: `dataset` is unknown.
    """
    dataset = dataset or default_dataset()
    if dataset not in SOURCES:
        raise ValueError(f"dataset must be one of {', '.join(SOURCES)}, got {dataset!r}")
    try:
        digits = SOURCES[dataset](data_folder(data_dir))
    except FileNotFoundError as error:
        missing = f"there is no {error.filename}" if error.filename else error
        message = f"{missing}; --data-dir or $MNIST_DATA_DIR names its folder"
        raise DataError(message) from error
    check(digits.images, digits.labels, f"{digits.name}, training set")
    check(digits.test_images, digits.test_labels, f"{digits.name}, test set")
    return digits


def load_mnist_or_rendered(data_dir):
    """Return MNIST, or rendered digits after a warning that says why MNIST is unavailable."""
    try:
        return load_mnist(data_dir)
    except MnistUnavailable as error:
        warn(f"{error}. Using RENDERED DIGITS instead of MNIST")
        return load_rendered(data_dir)


def load_rendered(data_dir):
    """Return rendered digits, as many as MNIST has; `data_dir` is not used."""
    from support.rendered import render  # MNIST does not need Pillow and matplotlib.

    return Digits(*render(60_000, seed=0), *render(10_000, seed=1), "rendered digits")


def load_mnist(data_dir):
    """Return MNIST from `data_dir`/MNIST/raw, where torchvision stores it if it is not there.

    The files may be the original .gz archives, as on a machine without network: torchvision unpacks
    them. What is read is checked by its SHA-256, every time.
    """
    from torchvision.datasets import mnist  # It is slow to import.

    raw = data_dir / "MNIST" / "raw"
    if not all((raw / file).is_file() for file in FILES):
        download(data_dir, raw)
    for file, sha256 in SHA256.items():
        with (raw / file).open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != sha256:
                raise DataError(
                    f"{raw / file} is damaged (its SHA-256 is wrong); "
                    "move it away and run again to download it"
                )
    tensors = []
    for split in ("train", "t10k"):
        images = mnist.read_image_file(raw / f"{split}-images-idx3-ubyte").unsqueeze(1)
        tensors += [images, mnist.read_label_file(raw / f"{split}-labels-idx1-ubyte")]
    return Digits(*tensors, "MNIST")


def download(data_dir, raw):
    """Have torchvision complete MNIST: it unpacks the original archives, and fetches the others."""
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import check_integrity

    # Who has put files there expects MNIST, not rendered digits. A broken archive does not count:
    # an interrupted download leaves one.
    some_files_exist = any((raw / file).is_file() for file in FILES) or any(
        check_integrity(raw / archive, md5) for archive, md5 in MNIST.resources
    )
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # Seconds. A silent server would hold us for minutes.
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the training log.
            MNIST(data_dir, download=True)
    except Exception as error:  # of the network, of the folder, or of a server's answer
        missing = ", ".join(file for file in FILES if not (raw / file).is_file())
        reason = str(error).strip().split("\n")[-1]  # Before, torchvision names its first archive.
        message = (
            f"{raw} lacks {missing}, and the download failed ({reason}); "
            "put the files there, unpacked or as the original .gz, or use --dataset rendered"
        )
        if some_files_exist:
            raise DataError(message) from error
        raise MnistUnavailable(message) from error
    finally:
        socket.setdefaulttimeout(timeout)


# The values of --dataset -> functions that return Digits, given the data folder.
SOURCES = {
    "auto": load_mnist_or_rendered,
    "mnist": load_mnist,
    "rendered": load_rendered,
}
