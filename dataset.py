"""Where the digits come from: genuine MNIST, or a rendered stand-in when MNIST cannot be had.

MNIST is downloaded by torchvision, and used only if every file that is read has its checksum.
"""

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

import torch

DATASETS = ("auto", "mnist", "rendered")

# Size in bytes and MD5 of the four files of MNIST (LeCun, Cortes, Burges), unpacked. The sums that
# torchvision publishes, and checks when it downloads, are those of the archives they come in.
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}


class DataError(Exception):
    """Digits that cannot be had or cannot be trusted; the text says which, why and what to do."""


class Unavailable(DataError):
    """MNIST is absent and could not be downloaded, as opposed to present and damaged."""


def load_digits(train, dataset="auto", data_dir=None):
    """Return the images and labels of one split, and the name of their source.

    Args:
        train: True for the 60,000 training digits, False for the 10,000 held-out ones.
        dataset: "mnist" (genuine or an error), "rendered" (the stand-in) or "auto" (MNIST; if it
            is absent and cannot be downloaded, a warning and the stand-in).
        data_dir: folder that holds or gets `MNIST/raw`; a relative one is seen from the folder of
            this file. `$MNIST_DATA_DIR`, or else `data`, if None.

    Returns:
        Images uint8 `(N, 1, 28, 28)`, labels int64 `(N,)` in 0..9, and "mnist" or "rendered".

    Raises:
        DataError: a file of MNIST is damaged, or MNIST was asked for and cannot be had.
        ValueError: `dataset` is none of the three names.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")
    if dataset != "rendered":
        data_dir = data_dir or os.environ.get("MNIST_DATA_DIR") or "data"
        try:
            return *load_mnist(train, Path(__file__).resolve().parent / data_dir), "mnist"
        except Unavailable as error:
            if dataset == "mnist":
                hint = "put its files there by hand, or use --dataset rendered"
                raise DataError(f"{error}; {hint}") from error
            logging.getLogger(__name__).warning(  # on stderr, unless the caller sets up logging
                f"WARNING: {error}; using RENDERED STAND-IN DIGITS instead of MNIST"
            )
    from standin import render  # Pillow and matplotlib are not needed where MNIST is.

    return *render(60_000 if train else 10_000, seed=0 if train else 1), "rendered"


def load_mnist(train, data_dir):
    """Return images and labels of one split, downloading the files that are absent.

    Raises:
        Unavailable: a file is absent and cannot be downloaded.
        DataError: a file is damaged or cannot be read.
    """
    raw = data_dir / "MNIST" / "raw"
    absent = [name for name in MNIST_FILES if not (raw / name).exists()]
    if absent:
        for name in MNIST_FILES.keys() - absent:
            read_verified(raw / name)  # A damaged file is an error, whatever else is missing.
        try:
            download(data_dir, absent)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split())  # torchvision's takes several lines
            raise Unavailable(
                f"MNIST is not in {data_dir} and cannot be downloaded: {reason}"
            ) from error
    split = "train" if train else "t10k"
    # The checksum vouches for the header too, so the layout is known. Parsing the bytes that were
    # hashed spares a second reading and torchvision's import, which takes longer than both.
    images = read_verified(raw / f"{split}-images-idx3-ubyte")
    labels = read_verified(raw / f"{split}-labels-idx1-ubyte")
    images = torch.frombuffer(images, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)
    return images, torch.frombuffer(labels, dtype=torch.uint8, offset=8).long()


def read_verified(path):
    """Return the bytes of a file of MNIST; raises DataError if they are not the published ones."""
    size, md5 = MNIST_FILES[path.name]
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; check it or delete it"
        ) from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        wrong = (
            f"has {len(content):,} bytes instead of {size:,}"
            if len(content) != size
            else f"has MD5 {found} instead of {md5}"
        )
        raise DataError(
            f"{path} is damaged: it {wrong}; delete it and run again to download it afresh"
        )
    return content


def download(data_dir, names):
    """Let torchvision fetch MNIST, and move the named files of it to `MNIST/raw` in `data_dir`.

    Raises OSError, RuntimeError or HTTPException on failure, which leaves no new folder behind.
    """
    from torchvision.datasets import MNIST  # Takes a second to import, and is needed only once.

    raw = data_dir / "MNIST" / "raw"
    new_folders = [folder for folder in (raw, *raw.parents) if not folder.exists()]
    timeout = socket.getdefaulttimeout()
    try:
        raw.mkdir(parents=True, exist_ok=True)
        # torchvision downloads and extracts in place, over what is there. In a folder of its own
        # an interruption leaves nothing behind, and files that are there stay as they are.
        with tempfile.TemporaryDirectory(dir=data_dir) as folder:
            fresh = Path(folder, "MNIST", "raw")
            fresh.mkdir(parents=True)
            for archive in raw.glob("*.gz"):  # Fetched by hand: torchvision takes what is genuine.
                shutil.copy(archive, fresh)
            socket.setdefaulttimeout(30)  # Seconds; a silent network would hold us for minutes.
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for the training log.
                MNIST(folder, download=True)
            for name in names:
                (fresh / name).replace(raw / name)
    except BaseException:  # Ctrl-C too
        for folder in new_folders:
            with contextlib.suppress(OSError):  # not made yet, or no longer empty
                folder.rmdir()
        raise
    finally:
        socket.setdefaulttimeout(timeout)
