"""Where the digits come from: MNIST, or rendered digits on a machine that cannot get MNIST."""

import contextlib
import hashlib
import os
import socket
import sys
from pathlib import Path

from support.digits import ROOT, DataError, Digits, check, warn

KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
FILES = [f"{split}-{kind}" for split in ("train", "t10k") for kind in KINDS]
# Of each split of MNIST (LeCun, Cortes, Burges) all pixels, then all labels, a byte each. Computed
# from files whose MD5 is the published one.
SHA256 = {
    "train": "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
    "t10k": "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
}


class Unavailable(DataError):
    """MNIST is absent and could not be downloaded, as opposed to incomplete or damaged."""


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
        DataError: a file of MNIST is missing, damaged or unreadable (with "auto", only if others
            are there), or the tensors of another source are not as Digits says.
        ValueError: `dataset` is unknown.
    """
    if dataset not in SOURCES:
        raise ValueError(f"dataset must be one of {', '.join(SOURCES)}, got {dataset!r}")
    data_dir = Path(data_dir or os.environ.get("MNIST_DATA_DIR") or ROOT / "data")
    try:
        digits = SOURCES[dataset](data_dir.expanduser().absolute())
    except FileNotFoundError as error:
        raise DataError(
            f"there is no {error.filename}; --data-dir or $MNIST_DATA_DIR names its folder"
        ) from error
    check(digits.images, digits.labels, f"{digits.name}, training set")
    check(digits.test_images, digits.test_labels, f"{digits.name}, test set")
    return digits


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
    """Return MNIST from `data_dir`/MNIST/raw, where torchvision stores it if it is not there."""
    from torchvision.datasets import MNIST  # It takes a second to import.

    raw = data_dir / "MNIST" / "raw"
    if not all((raw / file).is_file() for file in FILES):
        download(data_dir, raw)
    tensors = []
    for split, sha256 in SHA256.items():
        try:
            data = MNIST(data_dir, train=split == "train")
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


def download(data_dir, raw):
    """Have torchvision complete MNIST: it unpacks the original archives, and fetches the others."""
    from torchvision.datasets import MNIST

    there = raw.is_dir() and any(raw.iterdir())
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # Seconds. A silent server would hold us for minutes.
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the training log.
            MNIST(data_dir, download=True)
    except Exception as error:  # of the network, of the folder, or of a server's answer
        missing = ", ".join(file for file in FILES if not (raw / file).is_file())
        reason = str(error).strip().split("\n")[-1]  # Before, torchvision names its first archive.
        # Who has put files there expects MNIST; for the others, "auto" renders digits.
        raise (DataError if there else Unavailable)(
            f"{raw} lacks {missing}, and the download failed ({reason}); "
            "put the files there, unpacked or as the original .gz, or use --dataset rendered"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


# The values of --dataset -> functions that return Digits, given the data folder. For digits of your
# own, add a line here, such as `"my-digits": load_my_digits,` and above it the function, with
# `import torch` at the top; add the name to the usage in README. Shuffle before you split; digits
# must be white on black, as `read_picture` delivers them. torch.save((images, labels), path) saves
# them; the path is in the folder of --data-dir. For the gates, set bounds of your own in GATES of
# test_model.py: those there are for 60,000 images.
#     def load_my_digits(data_dir):
#         images, labels = torch.load(data_dir / "my_digits.pt")  # uint8 (N, 1, 28, 28), int64 (N,)
#         return Digits(images[1000:], labels[1000:], images[:1000], labels[:1000], "my-digits")
SOURCES = {
    "auto": load_mnist_or_rendered,
    "mnist": load_mnist,
    "rendered": load_rendered,
}
