"""Rotation, translation and scaling of image batches, and the random mix that training can use.

`python augment.py` draws the sample sheet, augmentation_samples.png, with the same functions.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from command_line import add_dataset_flags, exit_status, picture_file, write_figure
from dataset import load_digits


def rotate(images, degrees):
    """Rotate each image about its centre, counter-clockwise.

    Args:
        images: float `(N, C, H, W)` in [0, 1], like the result; black moves in from outside.
        degrees: float `(N,)`, one angle per image.
    """
    none = torch.zeros_like(degrees)
    return warp(images, degrees, right=none, down=none, factor=none + 1)


def translate(images, right, down):
    """Shift each image to the right and down by fractions of its width and height.

    Args:
        images: float `(N, C, H, W)` in [0, 1], like the result; black moves in from outside.
        right, down: float `(N,)`, one fraction per image; 0.1 is 2.8 of 28 pixels.
    """
    none = torch.zeros_like(right)
    return warp(images, none, right, down, factor=none + 1)


def scale(images, factor):
    """Enlarge (factor > 1) or shrink (factor < 1) each image about its centre.

    Args:
        images: float `(N, C, H, W)` in [0, 1], like the result; black moves in from outside.
        factor: float `(N,)`, one factor per image, above 0.
    """
    none = torch.zeros_like(factor)
    return warp(images, none, right=none, down=none, factor=factor)


def warp(images, degrees, right, down, factor):
    """Scale and rotate each image about its centre, then shift it; the amounts as above."""
    angle = degrees.deg2rad()
    cos, sin = angle.cos() / factor, angle.sin() / factor
    # affine_grid counts the width and the height from -1 to 1 each, but a rotation is in pixels.
    aspect = images.shape[2] / images.shape[3]
    wide, tall = sin * aspect, sin / aspect
    # From a pixel of the result to where it comes from: shifted back first, then rotated back.
    inverse = torch.stack(
        [
            *(cos, -wide, -2 * (cos * right - wide * down)),
            *(tall, cos, -2 * (tall * right + cos * down)),
        ],
        dim=1,
    ).view(-1, 2, 3)
    grid = F.affine_grid(inverse, images.shape, align_corners=False)  # (N, H, W, 2)
    return F.grid_sample(images, grid, align_corners=False)  # bilinear


def augment(images, p=0.2, generator=None):
    """Change a random share of the images by exactly one of the three operations each.

    The operation is chosen evenly among a rotation within +-5 degrees, a translation within +-5 %
    of the size in both directions, and a scaling to 95-105 %, each amount uniformly.

    Args:
        images: float `(N, C, H, W)` in [0, 1]; not modified.
        p: the chance of each image to be changed.
        generator: torch.Generator that makes the choices, torch's global one if None.

    Returns:
        A batch like `images` with the others bit-identical; `images` itself if none is chosen.
    """
    chosen = (torch.rand(len(images), generator=generator) < p).nonzero().squeeze(1)  # (K,)
    if len(chosen) == 0:
        return images
    operation = torch.randint(3, chosen.shape, generator=generator)  # (K,)
    amount, second = torch.empty(2, len(chosen)).uniform_(-1, 1, generator=generator)  # (K,) each
    rotated, shifted, scaled = F.one_hot(operation, 3).float().unbind(1)  # (K,) each, 1 or 0
    # One call for all chosen images: what is not an image's own operation gets the amount 0.
    changed = warp(
        images[chosen],
        degrees=5 * amount * rotated,
        right=0.05 * amount * shifted,
        down=0.05 * second * shifted,
        factor=1 + 0.05 * amount * scaled,
    )
    return images.index_copy(0, chosen, changed)


# --- The sample sheet -------------------------------------------------------------------------


def draw_samples(images, labels, source):
    """Return a matplotlib Figure of one digit per class and what the three operations make of it.

    Args:
        images: uint8 `(N, 1, 28, 28)`.
        labels: int64 `(N,)`; the first image of each class is drawn.
        source: "mnist" or "rendered", for the title.
    """
    from matplotlib.figure import Figure  # Takes a second to import, and training never draws.

    first = torch.stack([(labels == digit).nonzero()[0, 0] for digit in range(10)])
    original = images[first] / 255  # (10, 1, 28, 28)
    columns = {
        "Original": original,
        "Rotation\n10°": rotate(original, torch.full((10,), 10.0)),
        "Scale\n90 %": scale(original, torch.full((10,), 0.9)),
        "Translation\n10 % right": translate(original, torch.full((10,), 0.1), torch.zeros(10)),
    }
    figure = Figure(figsize=(6, 13.2))
    figure.suptitle(
        f"Augmentation of {'MNIST' if source == 'mnist' else 'rendered stand-in'} digits",
        fontsize=17,
        y=0.99,
    )
    edges = {"left": 0.06, "right": 0.99, "bottom": 0.005, "top": 0.935}
    rows = figure.subplots(10, 4, gridspec_kw=edges | {"wspace": 0.05, "hspace": 0.05})
    for column, (title, pictures) in enumerate(columns.items()):
        rows[0, column].set_title(title, fontsize=12)
        for ax, picture in zip(rows[:, column], pictures, strict=True):
            ax.imshow(picture[0].numpy(), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
    for digit in range(10):
        rows[digit, 0].set_ylabel(digit, fontsize=17, rotation=0, labelpad=14, va="center")
    return figure


def main(argv=None):
    """Draw the sample sheet as the flags say."""
    parser = argparse.ArgumentParser(
        description="Draw digits of every class beside their rotated, scaled and shifted forms.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output",
        type=picture_file,
        metavar="PATH",
        help="picture to write, .png, .pdf or .svg; if None, augmentation_samples.png beside this "
        "script, or augmentation_samples_rendered.png if the digits are not MNIST's",
    )
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    images, labels, source = load_digits(False, args.dataset, args.data_dir)
    # The stand-in's sheet must not replace the committed one of MNIST unasked.
    name = "augmentation_samples" + ("" if source == "mnist" else f"_{source}")
    path = args.output or Path(__file__).resolve().with_name(f"{name}.png")
    write_figure(path, draw_samples(images, labels, source))
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
