"""Your own digit, read from a picture file and prepared as MNIST's digits were."""

from pathlib import Path

import torch
import torch.nn.functional as F

from support.digits import DataError, centred

SIDE = 256  # pixels of the longer side of a picture while its digit is searched
SMALLEST = 16  # of these pixels, the longer side of a digit
DARKER = 0.15  # the least contrast of ink to the paper around it
CLEAR = 5  # the least contrast, in standard deviations of the paper
WANTED = "take a picture of one handwritten digit alone, in clear contrast"


def read_picture(path):
    """Return the digit in a picture file as an image like MNIST's, uint8 `(1, 1, 28, 28)`.

    Any size, any format of 8 bits that Pillow reads, dark ink on light paper or the other way
    round. As in MNIST (http://yann.lecun.com/exdb/mnist/), the digit becomes white on black, is
    scaled to fit 20 x 20 pixels, and is centred by its mass.

    Raises:
        DataError: the file cannot be read, or does not show one digit.
    """
    ink = find_ink(read_grey(path))
    digit, wrong = find_digit(ink)
    if wrong:
        raise DataError(f"{path} {wrong}: {WANTED}")
    ink = ink * F.max_pool2d(digit.float()[None], 5, 1, 2)[0]  # with its soft edge
    rows, columns = (digit.any(side).nonzero().squeeze(1) for side in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    size = [max(1, round(scale * side)) for side in ink.shape]
    ink = F.interpolate(ink[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    ink = (ink / ink.quantile(0.85)).clamp(0, 1)  # A thin line has become faint.
    image = F.pad(ink, (0, 28 - size[1], 0, 28 - size[0]))  # (28, 28)
    return centred(image[None]).mul(255).round().byte().unsqueeze(1)


def read_grey(path):
    """Return a picture as float `(H, W)` in [0, 1], its longer side SIDE pixels long."""
    from PIL import Image, ImageOps

    try:
        with Image.open(Path(path).expanduser()) as file:
            if file.mode[0] in "IF":
                raise ValueError("it has more than 8 bits for a colour; save it with 8")
            picture = ImageOps.exif_transpose(file).convert("RGBA")
            paper = Image.new("RGBA", picture.size, "white")  # for transparent pictures
            picture = Image.alpha_composite(paper, picture).convert("L")
            picture = ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.BOX)
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them.
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read as a picture: {reason}") from error
    grey = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return grey.view(picture.height, picture.width) / 255


def find_ink(grey):
    """Return the contrast of each pixel of `grey`, `(H, W)`, to the paper around it, from 0 to 1.

    The paper is the morphological closing of the picture: the highest value in a window around each
    pixel, then the lowest of these. Strokes are narrower than the window, and vanish; shadows are
    wider. Paper minus picture is the black top-hat (Gonzalez and Woods, Digital Image Processing).
    For light ink on a dark ground, lowest and highest change places.
    """
    grey = F.avg_pool2d(grey[None], 3, 1, 1, count_include_pad=False)[0]  # less noise
    window = min(grey.shape) // 8 * 2 + 1
    mean = F.avg_pool2d(grey[None], window, 1, window // 2, count_include_pad=False)[0]
    # Ink is rarer than paper, and differs more from the mean: the skewness tells which is darker.
    dark = -1 if (grey - mean).pow(3).mean() > 0 else 1
    paper = dark * grey[None]  # (1, H, W)
    for sign in (1, -1):  # A square window in two steps, rows then columns, is ten times as fast.
        paper = F.max_pool2d(sign * paper, (1, window), 1, (0, window // 2))
        paper = sign * F.max_pool2d(paper, (window, 1), 1, (window // 2, 0))
    paper = dark * paper[0]
    # Relative to the lighter of the two, so that contrast is the same in a shadow.
    return dark * (paper - grey) / torch.maximum(paper, grey).clamp(min=0.4)


def otsu_threshold(values, bins=64):
    """Return the threshold that separates values, from 0, best into two classes (Otsu, 1979)."""
    counts = values.histc(bins, 0, values.max().item())
    centres = (torch.arange(bins) + 0.5) * values.max() / bins
    below, sums = counts.cumsum(0), (counts * centres).cumsum(0)
    above = (below[-1] - below).clamp(min=1)
    variance = below * above * (sums / below.clamp(min=1) - (sums[-1] - sums) / above) ** 2
    return (variance.argmax() + 1) * values.max() / bins


def find_parts(mask):
    """Return the connected parts of a mask, bool `(H, W)` each, the largest first, at most 8."""
    labels = torch.arange(1.0, mask.numel() + 1).view(mask.shape) * mask
    before = torch.zeros(())
    while not torch.equal(before, labels):
        before = labels
        for _ in range(8):  # A pixel takes the highest number of its neighbours.
            labels = F.max_pool2d(labels[None], 3, 1, 1)[0] * mask
    numbers, areas = labels[mask].unique(return_counts=True)
    return [labels == numbers[k] for k in areas.argsort(descending=True)[:8]]


def find_digit(ink):
    """Return the digit's place in `ink`, bool `(H, W)`, and what is wrong with it, or None."""
    mask = ink > max(DARKER, otsu_threshold(ink))
    # A mean of nothing is NaN, which is not above anything.
    clear = ink[mask].mean() - ink[~mask].mean() > CLEAR * ink[~mask].std()
    # Grown by a pixel, to close gaps in a stroke, and at half the size, for speed: (H / 2, W / 2).
    half = F.max_pool2d(mask.float()[None], 4, stride=2, padding=1, ceil_mode=True)[0] > 0
    # What lies at the border is a frame, a shadow or a thumb.
    parts = [part for part in find_parts(half) if part.sum() == part[1:-1, 1:-1].sum()]
    if not clear or not parts or max(parts[0].any(0).sum(), parts[0].any(1).sum()) < SMALLEST / 2:
        return mask, "shows no digit that stands out"
    digit, columns = parts[0], parts[0].any(0)
    for part in parts[1:]:
        shared = (part.any(0) & columns).sum() / part.any(0).sum()
        if part.sum() > 0.1 * parts[0].sum() and shared > 0.5:
            digit = digit | part  # as the bar of a 5
        elif part.sum() > 0.3 * parts[0].sum():
            return mask, "shows more than one digit, or something else"
    digit = F.interpolate(digit.float()[None, None], scale_factor=2)[0, 0] > 0
    return mask & digit[: mask.shape[0], : mask.shape[1]], None
