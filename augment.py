"""Rotation, translation and scaling of image batches, and the random mix that training can use.

`python augment.py` draws the sample sheet, augmentation_samples.png, with the same functions.
"""

import signal
import sys

if __name__ == "__main__":  # Ctrl-C ends quietly from here on: the imports alone take seconds.
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))


import argparse
import functools
import io
from pathlib import Path

import torch
import torch.nn.functional as F

from dataset import DataError, add_dataset_flags, load_digits, output_file, write_whole


def rotate(images, degrees):
    """Rotate each image about its centre, counter-clockwise.

    Args:
        images: float `(N, 1, 28, 28)` in [0, 1], like the result; black moves in from outside.
        degrees: float `(N,)`, one angle per image.
    """
    none = torch.zeros_like(degrees)
    return _warp(images, degrees, right=none, down=none, factor=none + 1)


def translate(images, right, down):
    """Shift each image to the right and down by fractions of its size.

    Args:
        images: float `(N, 1, 28, 28)` in [0, 1], like the result; black moves in from outside.
        right, down: float `(N,)`, one fraction per image; 0.1 is 2.8 pixels.
    """
    none = torch.zeros_like(right)
    return _warp(images, none, right, down, factor=none + 1)


def scale(images, factor):
    """Enlarge (factor > 1) or shrink (factor < 1) each image about its centre.

    Args:
        images: float `(N, 1, 28, 28)` in [0, 1], like the result; black moves in from outside.
        factor: float `(N,)`, one factor per image, above 0.
    """
    none = torch.zeros_like(factor)
    return _warp(images, none, right=none, down=none, factor=factor)


def augment(images, p=0.2, generator=None):
    """Change a random share of the images by exactly one of the three operations each.

    The operation is chosen evenly among a rotation within +-5 degrees, a translation within +-5 %
    of the size in both directions, and a scaling to 95-105 %, each amount uniformly.

    Args:
        images: float `(N, 1, 28, 28)` in [0, 1]; not modified.
        p: the chance of each image to be changed.
        generator: torch.Generator that makes the choices, torch's global one if None.

    Returns:
        A batch like `images` with the others bit-identical; `images` itself if none is chosen.
    """
    chosen = (torch.rand(len(images), generator=generator) < p).nonzero().squeeze(1)  # (K,)
    if len(chosen) == 0:
        return images
    # All chosen images are warped at once: what is not their own operation gets the amount 0.
    limits = _LIMITS[:, torch.randint(3, chosen.shape, generator=generator)]  # (4, K)
    amounts = torch.empty_like(limits).uniform_(-1, 1, generator=generator) * limits
    degrees, right, down, growth = amounts
    changed = _warp(images.index_select(0, chosen), degrees, right, down, factor=1 + growth)
    return images.index_copy(0, chosen, changed)


# How far each amount may go (rows) under each operation (columns).
_LIMITS = torch.tensor(
    [  # rotation, translation, scaling
        [5.0, 0.0, 0.0],  # degrees
        [0.0, 0.05, 0.0],  # to the right, of the width
        [0.0, 0.05, 0.0],  # down, of the height
        [0.0, 0.0, 0.05],  # growth
    ]
)


def _warp(images, degrees, right, down, factor):
    """Sample the images, bilinearly, where each output pixel comes from."""
    # From the output to the input: rotated back and divided by the factor, then shifted back.
    turn = torch.polar(1 / factor, degrees.deg2rad()).view(-1, 1, 1)  # (N, 1, 1)
    shift = torch.complex(2 * right, 2 * down).view(-1, 1, 1)  # The image is 2 wide and high.
    grid = torch.view_as_real(_pixels(*images.shape[2:]) * turn - shift)  # (N, 28, 28, 2)
    return F.grid_sample(images, grid, align_corners=False)


@functools.cache
def _pixels(height, width):
    """Where the pixels are: x from -1 to 1 to the right, y down, as complex numbers x + iy.

    To turn and scale them is then one product, which is faster than affine_grid with the matrices.
    """
    identity = torch.eye(2, 3)[None]  # (1, 2, 3)
    grid = F.affine_grid(identity, (1, 1, height, width), align_corners=False)  # (1, 28, 28, 2)
    return torch.view_as_complex(grid)  # (1, 28, 28)


# --- The sample sheet -------------------------------------------------------------------------


def draw_samples(images, labels, source):
    """Return a PNG (bytes) of one digit per class and what the three operations make of it.

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
    figure = Figure(figsize=(6, 13.2), layout="constrained")
    kind = "MNIST" if source == "mnist" else "rendered stand-in"
    figure.suptitle(f"Augmentation of {kind} digits", fontsize=17)
    for column, (axes, (title, pictures)) in enumerate(
        zip(figure.subplots(10, 4).T, columns.items(), strict=True)
    ):
        axes[0].set_title(title, fontsize=12)
        for digit, (ax, picture) in enumerate(zip(axes, pictures, strict=True)):
            ax.imshow(picture[0].numpy(), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            if column == 0:
                ax.set_ylabel(digit, fontsize=17, rotation=0, labelpad=14, va="center")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100, metadata={"Software": None})
    return png.getvalue()


def main(argv=None):
    """Draw the sample sheet and return the exit status: 1 for unusable data, 2 for bad usage."""
    parser = argparse.ArgumentParser(
        description="Draw digits of every class beside their rotated, scaled and shifted forms."
    )
    parser.add_argument(
        "--output",
        type=output_file,
        default=str(Path(__file__).resolve().parent / "augmentation_samples.png"),
        metavar="PATH",
        help="PNG file to write (default: %(default)s)",
    )
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    try:
        write_whole(args.output, draw_samples(*load_digits(False, args.dataset, args.data_dir)))
    except (DataError, OSError) as error:
        print(f"augment.py: error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
