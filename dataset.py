"""Where the digits come from: genuine MNIST, or a rendered stand-in when MNIST cannot be had.

MNIST is downloaded by torchvision and believed only if every file has its published checksum.
The stand-in is drawn from the fonts that matplotlib ships, so that everything runs offline.
"""

import argparse
import contextlib
import hashlib
import http.client
import logging
import math
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

log = logging.getLogger(__name__)

DATASETS = ("auto", "mnist", "rendered")

# Size in bytes and MD5 of the four files of MNIST (LeCun, Cortes, Burges), uncompressed.
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}


class DataError(Exception):
    """Digits that cannot be had or cannot be trusted; the text says which, why and what to do."""


def load_digits(train, dataset="auto", data_dir=None):
    """Return the images and labels of one split, and the name of their source.

    Args:
        train: True for the 60,000 training digits, False for the 10,000 held-out ones.
        dataset: "mnist" (genuine or an error), "rendered" (the stand-in) or "auto" (MNIST; if it
            is absent and cannot be downloaded, a warning and the stand-in).
        data_dir: folder that holds or gets `MNIST/raw`; `default_data_dir()` if None.

    Returns:
        Images uint8 `(N, 1, 28, 28)`, labels int64 `(N,)` in 0..9, and "mnist" or "rendered".

    Raises:
        DataError: a file of MNIST is damaged, or MNIST was asked for and cannot be had.
        ValueError: `dataset` is none of the three names.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")
    if dataset != "rendered":
        data_dir = default_data_dir() if data_dir is None else Path(data_dir)
        try:
            return *_load_mnist(train, data_dir), "mnist"
        except _Unavailable as error:
            if dataset == "mnist":
                hint = "put its files there by hand, or use --dataset rendered"
                raise DataError(f"{error}; {hint}") from error
            log.warning(f"WARNING: {error}; using RENDERED STAND-IN DIGITS instead of MNIST")
    return *_render(60_000 if train else 10_000, seed=0 if train else 1), "rendered"


def default_data_dir():
    """Return the data folder: `$MNIST_DATA_DIR`, or else `data` beside this file."""
    return Path(os.environ.get("MNIST_DATA_DIR") or Path(__file__).resolve().parent / "data")


def add_dataset_flags(parser):
    """Add `--dataset` and `--data-dir`, which every script of this project shares, to `parser`."""

    def known(name):  # A type and not choices=, which would not check the environment's value.
        if name not in DATASETS:
            raise argparse.ArgumentTypeError(
                f"(or MNIST_DATASET) must be one of {', '.join(DATASETS)}, got {name!r}"
            )
        return name

    parser.add_argument(
        "--dataset",
        type=known,
        default=os.environ.get("MNIST_DATASET") or "auto",
        metavar="{" + ",".join(DATASETS) + "}",
        help="genuine MNIST, the rendered stand-in, or MNIST if it can be had; "
        "$MNIST_DATASET sets the default (now: %(default)s)",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=default_data_dir(),
        metavar="DIR",
        help="folder that holds or gets MNIST/raw; "
        "$MNIST_DATA_DIR sets the default (now: %(default)s)",
    )


def output_file(text):
    """Turn a flag's text into the Path of a file that can be written; a usage error if it cannot.

    Meant as `type=` of an argparse flag, so that a bad path is found before the work, not after it.
    """
    path = Path(text)
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{path} is not a regular file")
    try:  # os.access() would not tell on every system.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"cannot write in folder {path.parent}: {error.strerror}"
        ) from error
    return path


def write_whole(path, content):
    """Write bytes to `path`, whole or not at all; raises OSError if that is not possible."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder, path.name)
        unfinished.write_bytes(content)
        unfinished.replace(path)


# --- Genuine MNIST ----------------------------------------------------------------------------


class _Unavailable(DataError):
    """MNIST is absent and could not be downloaded, as opposed to present and damaged."""


def _load_mnist(train, data_dir):
    raw = data_dir / "MNIST" / "raw"
    absent = [name for name in MNIST_FILES if not (raw / name).exists()]
    if absent:
        for name in MNIST_FILES.keys() - absent:
            _read_verified(raw / name)  # A damaged file is an error, whatever else is missing.
        try:
            _download(data_dir, absent)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split())  # torchvision's takes several lines
            raise _Unavailable(
                f"MNIST is not in {data_dir} and cannot be downloaded: {reason}"
            ) from error
    split = "train" if train else "t10k"
    # The checksum vouches for the header too, so the layout is known. Parsing the bytes that were
    # hashed spares a second reading and torchvision's import, which takes longer than both.
    images = _read_verified(raw / f"{split}-images-idx3-ubyte")
    labels = _read_verified(raw / f"{split}-labels-idx1-ubyte")
    images = torch.frombuffer(images, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)
    return images, torch.frombuffer(labels, dtype=torch.uint8, offset=8).long()


def _read_verified(path):
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


def _download(data_dir, names):
    from torchvision.datasets import MNIST  # Takes a second to import, and is needed only once.

    raw = data_dir / "MNIST" / "raw"
    data_dir.mkdir(parents=True, exist_ok=True)
    timeout = socket.getdefaulttimeout()
    # torchvision downloads and extracts in place, over what is there. In a folder of its own an
    # interruption leaves nothing behind, and files that are already there stay as they are.
    with tempfile.TemporaryDirectory(dir=data_dir) as folder:
        fresh = Path(folder, "MNIST", "raw")
        fresh.mkdir(parents=True)
        for archive in raw.glob("*.gz"):  # Fetched by hand: torchvision takes what is genuine.
            shutil.copy(archive, fresh)
        try:
            socket.setdefaulttimeout(30)  # Seconds; a silent network would hold us for minutes.
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for the training log.
                MNIST(folder, download=True)
        finally:
            socket.setdefaulttimeout(timeout)
        raw.mkdir(parents=True, exist_ok=True)
        for name in names:
            (fresh / name).replace(raw / name)


# --- The rendered stand-in --------------------------------------------------------------------

# For every digit the digit itself, then characters that look as people write it: a plain stroke
# for 1, a looped 2, an open 4, a straight-backed 9.
_GLYPHS = ("0O", "1l|", "2ՁշZ", "3З", "4Ч", "5", "6бbь", "7", "8ȣზ", "9q")  # noqa: RUF001
_FONTS_WITH_ALL = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold")
_FONTS_WITH_DIGITS = (
    *("DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic"),
    *("cmb10", "cmmi10", "cmr10", "cmss10", "cmtt10"),
)


def _draw_glyphs():
    """Return pictures of all glyphs, float `(G, 1, 56, 56)` in [0, 1], and their digits `(G,)`.

    A picture is an image of MNIST at twice its size: the glyph's longer side takes 40 of the 56
    pixels, as MNIST's digits take 20 of 28. It is blurred so that a threshold can set the stroke.
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

    pictures, digits = [], []
    for name in _FONTS_WITH_ALL + _FONTS_WITH_DIGITS:
        font = ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", f"{name}.ttf")), 64)
        for digit, glyphs in enumerate(_GLYPHS):
            for glyph in glyphs if name in _FONTS_WITH_ALL else glyphs[0]:
                picture = Image.new("L", (192, 192))
                ImageDraw.Draw(picture).text((64, 64), glyph, fill=255, font=font)
                picture = ImageOps.pad(picture.crop(picture.getbbox()), (40, 40))
                picture = ImageOps.expand(picture, border=8).filter(ImageFilter.GaussianBlur(1.5))
                pictures.append(torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8))
                digits.append(digit)
    return torch.stack(pictures).view(-1, 1, 56, 56) / 255, torch.tensor(digits)


def _render(count, seed):
    """Return `count` stand-in digits, uint8 `(N, 1, 28, 28)`, and their labels, int64 `(N,)`."""
    pictures, digits = _draw_glyphs()
    by_digit = digits.argsort(stable=True)
    variants = digits.bincount(minlength=10)
    start = variants.cumsum(0) - variants
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high, size):
        return low + (high - low) * torch.rand(size, generator=generator)

    def normal(mean, std, *size):
        return mean + std * torch.randn(size, generator=generator)

    labels = torch.randint(10, (count,), generator=generator)
    images = []
    for label in labels.split(2500):  # Bounds the memory.
        n = len(label)
        picked = start[label] + uniform(0, variants[label], n).long()
        # Where each pixel looks in the picture: rotated, slanted, narrowed, ...
        angle, slant = normal(0, math.radians(8), n), normal(0.1, 0.2, n)
        width, height = uniform(0.65, 1.1, n), uniform(0.95, 1.05, n)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(n)
        theta = [cos / width, (sin + slant * cos) / width, zero]
        theta += [-sin / height, (cos - slant * sin) / height, zero]
        theta = torch.stack(theta, dim=1).view(n, 2, 3)
        grid = F.affine_grid(theta, (n, 1, 28, 28), align_corners=False)  # (n, 28, 28, 2)
        # ... and displaced, a little or a lot, by a field that is smooth because only 3 x 3 of
        # its points are free.
        field = uniform(0, 0.2, n).view(n, 1, 1, 1) * normal(0, 1, n, 2, 3, 3)
        field = F.interpolate(field, size=(28, 28), mode="bicubic", align_corners=True)
        grid += field.permute(0, 2, 3, 1)
        image = F.grid_sample(pictures[by_digit[picked]], grid, align_corners=False)[:, 0]
        # The threshold makes the stroke thin or thick, the slope its edge as soft as MNIST's.
        image = ((image - uniform(0.2, 0.45, n).view(n, 1, 1)) * 3 + 0.5).clamp(0, 1)
        images.append(_centred(image).mul(255).round().byte())
    return torch.cat(images).unsqueeze(1), labels


def _centred(images):
    """Shift each image `(N, 28, 28)` by whole pixels: centre of mass to the middle, as in MNIST."""
    axis = torch.arange(28)
    mass = images.sum((1, 2))
    down = ((images.sum(2) @ axis.float()) / mass - 13.5).round().long()  # (N,)
    right = ((images.sum(1) @ axis.float()) / mass - 13.5).round().long()
    rows = 14 + axis + down[:, None]  # (N, 28)
    columns = 14 + axis + right[:, None]
    padded = F.pad(images, (14, 14, 14, 14))  # (N, 56, 56): what moves in from outside is black
    return padded[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]]
