"""Rendered digits: drawn from the fonts that matplotlib ships, for machines without MNIST.

They have MNIST's shape, size and centring, and are for testing the code. They are not
MNIST: accuracy on them says nothing about accuracy on MNIST.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F

from support.digits import centred

# For every digit the digit itself, then characters that look like handwritten forms of it: a plain
# stroke for 1, a looped 2, an open 4, a 9 with a straight back.
GLYPHS = ("0O", "1l|", "2ՁշZ", "3З", "4Ч", "5", "6бbь", "7", "8ȣზ", "9q")  # noqa: RUF001
FONTS_WITH_ALL = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold")
FONTS_WITH_DIGITS = (  # They lack the other characters.
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralItalic",
    "cmb10",
    "cmmi10",
    "cmr10",
    "cmss10",
    "cmtt10",
)


def draw_glyphs():
    """Return pictures of all glyphs, float `(G, 1, 56, 56)` in [0, 1], and their digits `(G,)`.

    A picture has twice the size of an MNIST image: the glyph's longer side takes 40 of 56 pixels,
    as MNIST's digits take 20 of 28. It is blurred so that a threshold can set the stroke's width.
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

    pictures, digits = [], []
    for name in FONTS_WITH_ALL + FONTS_WITH_DIGITS:
        font = ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", f"{name}.ttf")), 64)
        for digit, glyphs in enumerate(GLYPHS):
            for glyph in glyphs if name in FONTS_WITH_ALL else glyphs[0]:
                picture = Image.new("L", (192, 192))
                ImageDraw.Draw(picture).text((64, 64), glyph, fill=255, font=font)
                picture = ImageOps.pad(picture.crop(picture.getbbox()), (40, 40))
                picture = ImageOps.expand(picture, border=8).filter(ImageFilter.GaussianBlur(1.5))
                pictures.append(torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8))
                digits.append(digit)
    return torch.stack(pictures).view(-1, 1, 56, 56) / 255, torch.tensor(digits)


def render(count, seed):
    """Return `count` rendered digits, uint8 `(N, 1, 28, 28)`, and their labels, int64 `(N,)`.

    The same seed gives the same pixels on the same versions of torch, Pillow and matplotlib.
    """
    pictures, digits = draw_glyphs()
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
    for label in labels.split(2500):  # to bound the memory
        n = len(label)
        picked = start[label] + uniform(0, variants[label], n).long()
        # The place in the picture that each pixel shows: rotated, slanted, narrowed, ...
        angle, slant = normal(0, math.radians(8), n), normal(0.1, 0.2, n)
        width, height = uniform(0.65, 1.1, n), uniform(0.95, 1.05, n)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(n)
        theta = [cos / width, (sin + slant * cos) / width, zero]
        theta += [-sin / height, (cos - slant * sin) / height, zero]
        theta = torch.stack(theta, dim=1).view(n, 2, 3)
        grid = F.affine_grid(theta, (n, 1, 28, 28), align_corners=False)  # (n, 28, 28, 2)
        # ... and displaced, a little or a lot, by a field that is smooth because it is
        # interpolated from 3 x 3 random points.
        field = uniform(0, 0.2, n).view(n, 1, 1, 1) * normal(0, 1, n, 2, 3, 3)
        field = F.interpolate(field, size=(28, 28), mode="bicubic", align_corners=True)
        grid += field.permute(0, 2, 3, 1)
        image = F.grid_sample(pictures[by_digit[picked]], grid, align_corners=False)[:, 0]
        # The threshold makes the stroke thin or thick; the slope makes its edge as soft as MNIST's.
        image = ((image - uniform(0.2, 0.45, n).view(n, 1, 1)) * 3 + 0.5).clamp(0, 1)
        images.append(centred(image).mul(255).round().byte())
    return torch.cat(images).unsqueeze(1), labels
