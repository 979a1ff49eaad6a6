"""Your own digit, read from a picture file and prepared as MNIST's digits were."""

from pathlib import Path

import torch
import torch.nn.functional as F

from support.command_line import one_thread
from support.dataset import DataError

SIDE = 256  # pixels of the longer side of a picture while its digit is searched
CLEAR = 8  # standard deviations of the paper, from the paper to the ink
CELL = 8  # pixels of the squares in which the paper is searched
WANTED = "take a picture of one handwritten digit alone, in clear contrast"


@one_thread()
def read_picture(path):
    """Return the digit in a picture file as an image like MNIST's, uint8 `(1, 1, 28, 28)`.

    Any size, any format that Pillow reads, dark ink on light paper or the other way round. As in
    MNIST (http://yann.lecun.com/exdb/mnist/), the digit becomes white on black, is scaled to fit
    20 x 20 pixels, and is centred by its mass.

    Raises:
        DataError: the file cannot be read, or does not show one digit.
    """
    found = [find_digit(ink) for ink in find_ink(read_grey(path)) if ink.max() > 0.15]
    found = [digit for digit in found if digit is not None]
    if not found:
        raise DataError(f"{path} shows nothing that stands out: {WANTED}")
    ink, digit, wrong = max(found, key=lambda one: (one[0][one[1]] ** 2).sum())
    if wrong:
        raise DataError(f"{path} {wrong}: {WANTED}")
    rows, columns = (digit.any(side).nonzero().squeeze(1) for side in (1, 0))
    ink = ink * F.max_pool2d(digit.float()[None], 5, 1, 2)[0]  # with its soft edge
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    size = [max(1, round(scale * side)) for side in ink.shape]
    ink = F.interpolate(ink[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    ink = (ink / ink.quantile(0.85)).clamp(0, 1)  # A thin line has become faint.
    down, right = 28 - size[0], 28 - size[1]
    image = F.pad(ink, (right // 2, right - right // 2, down // 2, down - down // 2))  # (28, 28)
    return centred(image[None]).mul(255).round().byte().unsqueeze(1)


def read_grey(path):
    """Return a picture as float `(H, W)` in [0, 1], at most SIDE pixels long."""
    from PIL import Image, ImageOps

    path = Path(path).expanduser()
    if path.exists() and not path.is_file():  # A pipe would hang.
        raise DataError(f"{path} is not a regular file; name a picture")
    try:
        with Image.open(path) as file:
            deep = file.mode[0] in "FI"  # numbers of 16 or 32 bits, in any range
            reducible = file.mode in ("L", "RGB", "RGBA")  # to convert millions of pixels is slow
            picture = file if reducible else file.convert("F" if deep else "RGBA")
            picture = ImageOps.exif_transpose(picture.reduce(max(1, max(picture.size) // SIDE)))
            if not deep:  # Transparent paper is white.
                paper = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(paper, picture.convert("RGBA"))
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them.
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read as a picture: {reason}") from error
    picture = ImageOps.contain(picture.convert("F"), (SIDE, SIDE))
    if min(picture.size) < 4 * CELL:
        raise DataError(f"{path} is too narrow: {WANTED}")
    grey = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.float32)
    low, high = grey.aminmax() if deep else (0, 255)
    return ((grey - low) / max(high - low, 1e-6)).view(picture.height, picture.width)


def find_ink(grey):
    """Return how much darker than the paper each pixel is, and how much lighter, from 0 to 1.

    The paper is the median of a large neighbourhood, so light may vary over it. Between the paper
    on one side of a shadow's edge and on the other, a pixel is paper.
    """
    coarse = F.interpolate(grey[None, None], scale_factor=1 / CELL, mode="area")  # (1, 1, h, w)
    half = min(coarse.shape[2:]) * 3 // 10
    patches = F.unfold(F.pad(coarse, [half] * 4, mode="reflect"), 2 * half + 1)  # (1, n * n, h * w)
    paper = patches.median(1).values.view(coarse.shape)
    low, high = (
        F.interpolate(extreme, grey.shape, mode="bilinear")[0, 0]  # (H, W)
        for extreme in (-F.max_pool2d(-paper, 3, 1, 1), F.max_pool2d(paper, 3, 1, 1))
    )
    smooth = F.avg_pool2d(F.pad(grey[None], [1] * 4, mode="replicate"), 3, 1)[0]
    dark, light = (low - smooth) / low.clamp(min=0.3), (smooth - high) / (1 - high).clamp(min=0.3)
    return dark.clamp(0, 1), light.clamp(0, 1)


def otsu_threshold(values, bins=64):
    """Return the threshold that separates values, from 0, best into two classes (Otsu, 1979)."""
    counts = values.histc(bins, 0, values.max().item())
    centres = (torch.arange(bins) + 0.5) * values.max() / bins
    below, sums = counts.cumsum(0), (counts * centres).cumsum(0)
    above = (below[-1] - below).clamp(min=1)
    variance = below * above * (sums / below.clamp(min=1) - (sums[-1] - sums) / above) ** 2
    return (variance.argmax() + 1) * values.max() / bins


def find_parts(mask, most=8):
    """Return the largest connected parts of a mask, bool `(H, W)` each, the largest first."""
    labels = torch.arange(1.0, mask.numel() + 1).view(mask.shape) * mask
    before = torch.zeros(())
    while not torch.equal(before, labels):
        before = labels
        for _ in range(8):  # A pixel takes the highest number of its neighbours.
            labels = F.max_pool2d(labels[None], 3, 1, 1)[0] * mask
    numbers, areas = labels[mask].unique(return_counts=True)
    return [labels == numbers[k] for k in areas.argsort(descending=True)[:most]]


def along_border(part):
    """Tell whether a part reaches two opposite borders, or lies along half of one."""
    top, bottom, left, right = part[0], part[-1], part[:, 0], part[:, -1]
    opposite = (top.any() and bottom.any()) or (left.any() and right.any())
    return opposite or max(side.float().mean() for side in (top, bottom, left, right)) > 0.5


def find_digit(ink):
    """Return ink, the digit's place in it, bool `(H, W)`, and what is wrong, or None for no digit.

    Parts that lie along the border are not the digit, nor are parts far smaller than the largest.
    """
    mask = ink > otsu_threshold(ink)
    if ink[mask].mean() - ink[~mask].mean() < CLEAR * ink[~mask].std():
        return None  # noise, or a picture full of edges
    half = F.max_pool2d(mask.float()[None], 2, ceil_mode=True)[0] > 0
    parts = [part for part in find_parts(half) if not along_border(part)]
    inner = [part for part in parts if part.sum() == part[1:-1, 1:-1].sum()]
    if inner and 4 * inner[0].sum() > parts[0].sum():
        parts = inner  # A digit may be written right to the border, but then nothing else is there.
    if not parts:
        return ink, mask, "shows no digit that stands free"
    digit, columns, wrong = parts[0], parts[0].any(0), None
    for part in parts[1:]:
        shared = (part.any(0) & columns).sum() / part.any(0).sum()
        if part.sum() > 0.1 * parts[0].sum() and shared > 0.5:
            digit = digit | part  # as the bar of a 5
        elif part.sum() > 0.3 * parts[0].sum():
            wrong = "shows more than one digit, or something else"
    digit = F.interpolate(digit.float()[None, None], scale_factor=2)[0, 0] > 0
    return ink, mask & digit[: mask.shape[0], : mask.shape[1]], wrong


def centred(images):
    """Shift images, float `(N, 28, 28)`, by whole pixels, to centre their mass."""
    axis = torch.arange(28)
    mass = images.sum((1, 2))
    down = ((images.sum(2) @ axis.float()) / mass - 13.5).round().long()  # (N,)
    right = ((images.sum(1) @ axis.float()) / mass - 13.5).round().long()
    rows = 14 + axis + down[:, None]  # (N, 28)
    columns = 14 + axis + right[:, None]
    padded = F.pad(images, (14, 14, 14, 14))  # (N, 56, 56), black outside
    return padded[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None]]
