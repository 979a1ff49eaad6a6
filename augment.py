"""Rotation, translation and scaling of batches of images, and the random mix for training.

`python augment.py` draws the sample sheet, augmentation_samples.png, with the same functions. For
another operation, see .github/CONTRIBUTING.md.
"""

import sys

import torch
import torch.nn.functional as F

from support import command_line as cli
from support.dataset import load_digits
from support.digits import ROOT


def rotate(images, degrees):
    """Rotate each image about its centre, counter-clockwise; arguments as for `warp`."""
    return warp(images, degrees=degrees)


def translate(images, right, down):
    """Shift each image to the right and down; arguments as for `warp`."""
    return warp(images, right=right, down=down)


def scale(images, factor):
    """Enlarge or shrink each image about its centre; arguments as for `warp`."""
    return warp(images, factor=factor)


def warp(images, degrees=0.0, right=0.0, down=0.0, factor=1.0):
    """Scale and rotate each image about its centre, then shift it.

    An amount is a number for all images or a float tensor `(N,)` with one for each.

    Args:
        images: float `(N, C, H, W)` in [0, 1], like the result; outside is black.
        degrees: the angle, counter-clockwise.
        right, down: fractions of the width and the height; 0.1 is 2.8 of 28 pixels.
        factor: enlarges above 1, shrinks below; above 0.
    """
    angle, right, down, factor = (
        torch.as_tensor(amount, dtype=images.dtype).expand(len(images))
        for amount in (degrees, right, down, factor)
    )
    cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
    # affine_grid counts from -1 to 1 across the width and across the height, but a rotation is in
    # pixels.
    aspect = images.shape[2] / images.shape[3]
    # theta tells where a pixel of the result comes from: shifted back, rotated back, scaled back.
    rotation = torch.stack([cos, -sin * aspect, sin / aspect, cos], dim=1).view(-1, 2, 2)
    linear = rotation / factor.view(-1, 1, 1)  # (N, 2, 2)
    shift = torch.stack([2 * right, 2 * down], dim=1).unsqueeze(2)  # (N, 2, 1)
    theta = torch.cat([linear, -linear @ shift], dim=2)  # (N, 2, 3)
    grid = F.affine_grid(theta, images.shape, align_corners=False)  # (N, H, W, 2)
    return F.grid_sample(images, grid, align_corners=False)  # bilinear


def augment(images, p=0.2, generator=None):
    """Change a random share of the images, each by exactly one of the three operations.

    The operation is a rotation by up to 5 degrees either way, a translation by up to 5% of the
    size horizontally and vertically, or a scaling to 95-105%. All are equally likely, and amounts
    are uniform.

    Args:
        images: float `(N, C, H, W)` in [0, 1]; not modified.
        p: the chance of each image being changed.
        generator: the torch.Generator that makes the choices; torch's global one if None.

    Returns:
        A batch like `images`, unchanged ones bit-identical; `images` itself if none is changed.
    """
    chosen = (torch.rand(len(images), generator=generator) < p).nonzero().squeeze(1)  # (K,)
    if len(chosen) == 0:
        return images
    operation = torch.randint(3, chosen.shape, generator=generator)  # (K,)
    first, second = torch.empty(2, len(chosen)).uniform_(-1, 1, generator=generator)  # (K,) each
    rotated, shifted, scaled = operation == 0, operation == 1, operation == 2  # (K,) each
    # One call serves all: where a mask is False, that operation leaves the image as it is.
    changed = warp(
        images[chosen],
        degrees=5 * first * rotated,
        right=0.05 * first * shifted,
        down=0.05 * second * shifted,
        factor=1 + 0.05 * first * scaled,
    )
    return images.index_copy(0, chosen, changed)


# --- The sample sheet -------------------------------------------------------------------------

# Exaggerated, so that the changes are visible.
SAMPLES = {
    "Rotation\n10° counter-\nclockwise": lambda images: rotate(images, 10),
    "Scale\n90%": lambda images: scale(images, 0.9),
    "Translation\n10% right": lambda images: translate(images, 0.1, 0),
}


def main(argv=None):
    """Draw the sample sheet as the flags say."""
    parser = cli.ArgumentParser(
        description="Draw a digit of each class, and what augmentation does."
    )
    parser.add_argument(
        "--output",
        type=cli.picture_file,
        metavar="PATH",
        help="picture to write: .png, .pdf or .svg (default: augmentation_samples.png beside "
        "augment.py, or augmentation_samples_NAME.png if the digits are not MNIST's)",
    )
    cli.add_dataset_flags(parser)
    args = parser.parse_args(argv)
    from support.sheet import draw_samples  # matplotlib is slow to import.

    digits = load_digits(args.dataset, args.data_dir)
    # Only MNIST's sheet is committed, and no other may replace it unasked.
    name = "" if digits.name == "MNIST" else "_" + digits.name.removesuffix(" digits")
    path = args.output or ROOT / f"augmentation_samples{name}.png"
    cli.write_picture(path, draw_samples, digits, SAMPLES)


if __name__ == "__main__":
    sys.exit(cli.run(main))
