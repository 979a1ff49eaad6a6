"""What a set of digits is, and what it must be like to train on."""

import logging
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent  # the repository's folder
CLASSES = 10


class DataError(Exception):
    """Data that is missing or damaged; the text says what is wrong, where, and what to do."""


class Digits(NamedTuple):
    """A training set, a test set, and their name for log, pictures and tables.

    Images are uint8 `(N, 1, 28, 28)`, white digits on black; labels are int64 `(N,)` from 0, below
    CLASSES.
    """

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    name: str


def check(images, labels, what):
    """Raise DataError unless images and labels are as Digits says; warn of likely mistakes."""
    wrong = what_is_wrong(images, labels)
    if wrong is not None:
        raise DataError(f"{what}: {wrong}")
    absent = (labels.bincount(minlength=CLASSES) == 0).nonzero().flatten().tolist()
    if absent:
        warn(
            f"{what}: no image of {absent}; were the digits sorted when you split them, "
            f"or are there fewer than {CLASSES} classes?"
        )
    largest = images.max().item()
    if largest < 127:
        factor = 255 // max(largest, 1)
        pixels = "pixels must be from 0 (black) to 255 (white)"
        warn(f"{what}: no pixel is above {largest}; {pixels}, so multiply by {factor}")
    elif images[:1000].float().mean() > 127:
        warn(f"{what}: mostly light pixels; digits must be white on black, so use 255 - images")


def what_is_wrong(images, labels):
    """Return how images and labels differ from what Digits says and what to do, or None."""
    if not (isinstance(images, torch.Tensor) and isinstance(labels, torch.Tensor)):
        return "images and labels must be tensors: use torch.tensor()"
    if images.dtype != torch.uint8:
        remedy = "if they are floats from 0 to 1, use (255 * images).round().byte()"
        return f"images must be uint8, got {images.dtype}; {remedy}"
    if labels.dtype != torch.int64:
        return f"labels must be int64, got {labels.dtype}; use labels.long()"
    if len(images) == 0:
        return "it has no image; provide more, or take fewer for the other set"
    if images.shape[1:] == (28, 28):
        return "images must have the shape (N, 1, 28, 28); use images.unsqueeze(1)"
    if images.shape[1:] != (1, 28, 28):
        shape = f"images must have the shape (N, 1, 28, 28), got {tuple(images.shape)}"
        return f"{shape}; for another size, see .github/CONTRIBUTING.md"
    if labels.shape != (len(images),):
        return f"{len(images)} images need as many labels, got the shape {tuple(labels.shape)}"
    if labels.min() < 0 or labels.max() >= CLASSES:
        found = f"labels must be from 0 to {CLASSES - 1}, got {labels.unique().tolist()}"
        remedy = "if they count from 1, subtract 1; for more classes, change CLASSES"
        return f"{found}; {remedy} in support/digits.py"
    return None


def warn(text):
    """Log a warning: one line on stderr, unless the caller sets up logging."""
    logging.getLogger(__name__).warning("WARNING: %s", " ".join(text.split()))


def centred(images):
    """Shift images, float `(N, 28, 28)`, by whole pixels, to centre their mass as MNIST does."""
    axis = torch.arange(28)
    mass = images.sum((1, 2))
    down = ((images.sum(2) @ axis.float()) / mass - 13.5).round().long()  # (N,)
    right = ((images.sum(1) @ axis.float()) / mass - 13.5).round().long()
    rows = 14 + axis + down[:, None]  # (N, 28)
    columns = 14 + axis + right[:, None]
    padded = F.pad(images, (14, 14, 14, 14))  # (N, 56, 56), black outside
    return padded[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]]
