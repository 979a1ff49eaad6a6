"""The sample sheet of augment.py: a digit of each class, and what each operation makes of it."""

import math

import torch
from matplotlib.figure import Figure


def draw_samples(digits, operations):
    """Return a matplotlib Figure: a test digit of each class, and what the operations make of it.

    Args:
        digits: a `Digits`; the first test image of each class is drawn.
        operations: titles of columns -> functions of images, float `(C, 1, 28, 28)` in [0, 1].
    """
    classes = digits.test_labels.unique().tolist()
    first = torch.stack([(digits.test_labels == digit).nonzero()[0, 0] for digit in classes])
    original = digits.test_images[first] / 255  # (C, 1, 28, 28)
    columns = {"Original": original}
    columns |= {title: operation(original) for title, operation in operations.items()}
    # Two blocks of digits, measured in pixels: 6 for each of MNIST's.
    rows = math.ceil(len(classes) / 2)
    size, gap, left, top, border = 28 * 6, 12, 76, 168, 24
    block_width = left + len(columns) * (size + gap) - gap
    width, height = 2 * block_width + border, top + rows * size + (rows - 1) * gap + border
    figure = Figure(figsize=(width / 200, height / 200), dpi=200, facecolor="0.88")
    figure.suptitle(f"Augmentation of {digits.name}", fontsize=12, y=0.985)
    for index, digit in enumerate(classes):
        block, row = divmod(index, rows)
        for column, (title, pictures) in enumerate(columns.items()):
            x = block * block_width + left + column * (size + gap)
            y = height - top - size - row * (size + gap)
            ax = figure.add_axes((x / width, y / height, size / width, size / height))
            # As RGB the greys are drawn as they are; a colour map would round them.
            rgb = (255 * pictures[index, 0]).round().byte().unsqueeze(2).expand(-1, -1, 3)
            ax.imshow(rgb.numpy())
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if row == 0:
                ax.set_title(title, fontsize=9)
            if column == 0:
                ax.set_ylabel(digit, fontsize=12, rotation=0, ha="right", va="center")
    return figure
