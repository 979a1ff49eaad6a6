"""Where the digits come from: MNIST, or rendered digits on a machine that cannot get MNIST."""

import contextlib
import hashlib
import http.client
import logging
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent  # the folder of model.py

KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
FILES = [f"{split}-{kind}" for split in ("train", "t10k") for kind in KINDS]
# Of each split of MNIST (LeCun, Cortes, Burges) all pixels, then all labels, a byte each. Computed
# from files whose MD5 is the published one.
SHA256 = {
    "train": "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
    "t10k": "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
}


class DataError(Exception):
    """Data that is missing or damaged; the text says what is wrong, where, and what to do."""


class Unavailable(DataError):
    """MNIST is absent and could not be downloaded, as opposed to present and damaged."""


class Digits(NamedTuple):
    """A training set, a test set, and their name for log, pictures and tables.

    Images are uint8 `(N, 1, 28, 28)`, white digits on black; labels are int64 `(N,)` in 0..9.
    """

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    name: str


def load_digits(dataset="auto", data_dir=None):
    """Return the training and test digits.

    Args:
        dataset: a name in SOURCES. "mnist"; "rendered"; or "auto" for MNIST if it is there or can
            be downloaded, and otherwise a warning and rendered digits.
        data_dir: the folder that holds or gets `MNIST/raw`. If None, `$MNIST_DATA_DIR` or else
            `data` beside model.py.

    Returns:
        Digits, named "MNIST" or "rendered digits", or as another source calls them.

    Raises:
        DataError: a file of MNIST is damaged or unreadable, or `dataset` is "mnist" and MNIST is
            unavailable, or the tensors of another source are not as Digits says.
        ValueError: `dataset` is unknown.
    """
    if dataset not in SOURCES:
        raise ValueError(f"dataset must be one of {', '.join(SOURCES)}, got {dataset!r}")
    data_dir = Path(data_dir or os.environ.get("MNIST_DATA_DIR") or ROOT / "data")
    digits = SOURCES[dataset](data_dir.expanduser().absolute())
    check(digits.images, digits.labels, f"{digits.name}, training set")
    check(digits.test_images, digits.test_labels, f"{digits.name}, test set")
    return digits


def check(images, labels, what):
    """Raise DataError unless images and labels are as Digits says; warn of likely mistakes."""
    count, wrong = len(images), None
    if (images.dtype, labels.dtype) != (torch.uint8, torch.int64):
        wrong = f"images must be uint8 and labels int64, got {images.dtype} and {labels.dtype}"
    elif count == 0 or images.shape != (count, 1, 28, 28):
        wrong = f"images must have the shape (N, 1, 28, 28), N > 0, got {tuple(images.shape)}"
        wrong += "; for another size, change check(), and forward() and fc1 in model.py"
    elif labels.shape != (count,):
        wrong = f"{count} images need labels of the shape ({count},), got {tuple(labels.shape)}"
    elif labels.min() < 0 or labels.max() > 9:
        wrong = f"labels must be from 0 to 9, got {labels.unique().tolist()}"
        wrong += "; for other classes, change fc2 in model.py and check()"
    if wrong:
        raise DataError(f"{what}: {wrong}")
    absent = (labels.bincount(minlength=10) == 0).nonzero().flatten().tolist()
    if absent:
        warn(f"{what}: no image of {absent}; were the digits sorted when you split them?")
    if images[:1000].float().mean() > 127:
        warn(f"{what}: mostly light pixels; digits must be white on black")


def warn(text):
    """Log a warning: one line on stderr, unless the caller sets up logging."""
    logging.getLogger(__name__).warning("WARNING: %s", " ".join(text.split()))


def load_mnist_or_rendered(data_dir):
    """Return MNIST, or rendered digits after a warning that says why MNIST is unavailable."""
    try:
        return load_mnist(data_dir)
    except Unavailable as error:
        warn(f"{error}. Using RENDERED DIGITS instead of MNIST")
        return load_rendered(data_dir)


def load_rendered(data_dir):
    """Return rendered digits, as many as MNIST has; `data_dir` is not used."""
    from support.rendered import render  # MNIST does not need Pillow and matplotlib.

    return Digits(*render(60_000, seed=0), *render(10_000, seed=1), "rendered digits")


def load_mnist(data_dir):
    """Return MNIST from `data_dir`/MNIST/raw, or download and store it if it is not there."""
    raw = data_dir / "MNIST" / "raw"
    if all((raw / file).is_file() for file in FILES):
        return read_mnist(data_dir, raw)
    with tempfile.TemporaryDirectory() as folder:
        complete(raw, Path(folder, "MNIST", "raw"))
        digits = read_mnist(folder, raw)
        try:
            raw.mkdir(parents=True, exist_ok=True)
            # On the same disk a move is whole or not at all, whatever ends this process.
            with tempfile.TemporaryDirectory(dir=raw) as beside:
                for file in FILES:
                    if not (raw / file).exists():
                        shutil.copy(Path(folder, "MNIST", "raw", file), beside)
                        Path(beside, file).replace(raw / file)
        except OSError as error:
            warn(f"MNIST cannot be stored in {raw} ({error}); the next run will fetch it again")
    return digits


def complete(raw, copy):
    """Fill the folder `copy` with MNIST, unpacked: archives from `raw`, the rest downloaded."""
    from torchvision.datasets import MNIST  # It takes a second to import.

    copy.mkdir(parents=True)
    archives = [raw / f"{file}.gz" for file in FILES if (raw / f"{file}.gz").is_file()]
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # Seconds. A silent server would hold us for minutes.
    try:
        for archive in archives:
            shutil.copy(archive, copy)
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the training log.
            MNIST(copy.parent.parent, download=True)  # Archives of the right MD5 are only unpacked.
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        there = archives or [file for file in FILES if (raw / file).exists()]
        raise (DataError if there else Unavailable)(
            f"MNIST is {'incomplete or damaged' if there else 'not'} in {raw} and cannot be "
            f"downloaded: {' '.join(str(error).split())}; put its four files there, or use "
            "--dataset rendered"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def read_mnist(root, raw):
    """Return MNIST as torchvision reads it from `root`; an error names the user's folder `raw`."""
    from torchvision.datasets import MNIST

    tensors = []
    for split, sha256 in SHA256.items():
        try:
            data = MNIST(root, train=split == "train")
            digest = hashlib.sha256(data.data.numpy())
            digest.update(data.targets.byte().numpy())
            wrong = "" if digest.hexdigest() == sha256 else "their SHA-256 is wrong"
        except Exception as error:  # Damaged files raise many kinds.
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            raise DataError(
                f"the {split} files of MNIST in {raw} are damaged ({wrong}); "
                "move them away and run again to download them"
            )
        tensors += [data.data.unsqueeze(1), data.targets]
    return Digits(*tensors, "MNIST")


# The values of --dataset -> functions that return Digits, given the data folder. For digits of your
# own, add a line here, such as `"my-digits": load_my_digits,` and above it the function; add the
# name to the usage in README. Shuffle before you split; digits must be white on black, as
# `read_picture` delivers them. `torch.save((images, labels), path)` saves them into --data-dir.
#     def load_my_digits(data_dir):
#         images, labels = torch.load(data_dir / "my_digits.pt")  # uint8 (N, 1, 28, 28), int64 (N,)
#         return Digits(images[1000:], labels[1000:], images[:1000], labels[:1000], "my-digits")
SOURCES = {
    "auto": load_mnist_or_rendered,
    "mnist": load_mnist,
    "rendered": load_rendered,
}
