"""Your own digit, read from a picture file and prepared as MNIST's digits were."""

from pathlib import Path

import torch
import torch.nn.functional as F

from support.dataset import DataError


def read_picture(path):
    """Return the digit in a picture file as an image like MNIST's, uint8 `(1, 1, 28, 28)`.

    Any size, any format that Pillow reads, and a light or a dark background will do. The digit
    must be the only thing in the picture. As in MNIST (http://yann.lecun.com/exdb/mnist/), it
    becomes white on black, is scaled to fit 20 x 20 pixels, and is centred by its mass.

    Raises:
        DataError: the file cannot be read, or it is blank.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(Path(path).expanduser()) as file:
            picture = ImageOps.exif_transpose(file).convert("RGBA")
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them.
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read as a picture: {reason}") from error
    white = Image.new("RGBA", picture.size, "white")
    grey = Image.alpha_composite(white, picture).convert("L")
    width, height = grey.size
    pixels = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).view(height, width)
    ink = pixels / 255  # (H, W)
    border = torch.cat([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
    ink = (ink - border.median()).abs()  # The border shows the paper, light or dark.
    if ink.max() < 0.2:
        raise DataError(f"{path} shows no digit: it is blank or too faint")
    ink = ink / ink.max()
    rows, columns = ((ink > 0.4).any(side).nonzero().squeeze(1) for side in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    size = [max(1, round(scale * side)) for side in ink.shape]
    ink = F.interpolate(ink[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    ink = ink / ink.max()  # A thin line has become faint.
    down, right = 28 - size[0], 28 - size[1]
    image = F.pad(ink, (right // 2, right - right // 2, down // 2, down - down // 2))  # (28, 28)
    return centred(image[None]).mul(255).round().byte().unsqueeze(1)


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
