"""How many digits are predicted correctly on simulated photographs.

`python benchmarks/photographs.py weights.pt` draws MNIST's test digits with a pen on pictures of
the kinds in KINDS, has `read_picture` prepare them, and prints how the network in weights.pt
predicts them. `--sheet sheet.png` also draws two of each kind beside what the network is shown.
Only digits that the network predicts correctly as they are take part.

The constants of support/picture.py were chosen on other kinds of pictures, KINDS_FOR_CHOOSING, and
on other images.
"""

import io
import math
import sys
import tempfile
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model import LightweightCNN, predict
from support.command_line import (
    ArgumentParser,
    add_dataset_flags,
    picture_file,
    positive_int,
    run,
    write_picture,
)
from support.dataset import DataError, load_digits
from support.picture import read_picture

SIZE = (480, 640)  # height and width of a picture, in pixels


# --- What a picture is made of ----------------------------------------------------------------


class Chance:
    """The random choices of one picture, from a generator of its own."""

    def __init__(self, name):
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def between(self, low, high):
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def noise(self, *shape):
        return torch.randn(shape, generator=self.generator)


def drawn(image, chance, low=0.3, high=0.75, margin=0.05):
    """Return a digit's ink, float `SIZE` in [0, 1]: `low` to `high` of the picture's height.

    It keeps away from the borders by at least `margin` of height and width.

    The digit is enlarged and cut at a grey value: a low one makes the pen wide, a high one narrow.
    """
    height = chance.between(low, high) * SIZE[0]
    rows, columns = ((image[0] > 0).any(side).nonzero() for side in (1, 0))
    digit = image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = height / max(digit.shape)
    size = [round(scale * side) + 8 for side in digit.shape[1:]]  # 4 pixels around it
    ink = F.interpolate(F.pad(digit[None] / 255, [1] * 4), size, mode="bicubic")[0, 0]
    ink = ((ink - chance.between(0.25, 0.65)) * scale * 0.9 + 0.5).clamp(0, 1)
    top, left = (
        round(chance.between(margin * whole, (1 - margin) * whole - part))
        for whole, part in zip(SIZE, size, strict=True)
    )
    picture = torch.zeros(SIZE)
    picture[top : top + size[0], left : left + size[1]] = ink
    return picture


def across(chance):
    """Return each pixel's position along a random direction, float `SIZE` in [0, 1]."""
    angle = chance.between(0, 2 * math.pi)
    y = torch.linspace(-1, 1, SIZE[0])[:, None]
    x = torch.linspace(-1, 1, SIZE[1])[None]
    along = math.cos(angle) * x + math.sin(angle) * y
    return (along - along.min()) / (along.max() - along.min())


def blurred(picture, radius):
    """Average over a square of 2 * radius + 1 pixels."""
    padded = F.pad(picture[None, None], [radius] * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)[0, 0]


def grain(chance, size):
    """Smooth noise, float `SIZE`, with a standard deviation of 1, whose grains have this size."""
    coarse = chance.noise(1, 1, SIZE[0] // size + 2, SIZE[1] // size + 2)
    return F.interpolate(coarse, SIZE, mode="bicubic")[0, 0]


def written(ink, chance, paper=None, darkness=None):
    """Return ink on paper, float `SIZE` in [0, 1], before any light falls on it."""
    paper = chance.between(0.75, 0.97) if paper is None else paper
    darkness = chance.between(0.55, 0.9) if darkness is None else darkness
    return paper * (1 - darkness * ink)


def photographed(picture, chance, sigma=None):
    """Return a picture file's bytes, as of a telephone: noise, a little blur, JPEG."""
    sigma = chance.between(0.01, 0.04) if sigma is None else sigma
    picture = blurred(picture, 1) + sigma * chance.noise(*SIZE)
    return encoded(picture, "JPEG", quality=round(chance.between(40, 90)))


def encoded(picture, kind, **options):
    content = io.BytesIO()
    pixels = (255 * picture.clamp(0, 1)).round().byte()
    grey = Image.frombytes("L", (SIZE[1], SIZE[0]), pixels.contiguous().numpy().tobytes())
    grey.convert("RGB").save(content, kind, **options)
    return content.getvalue()


# --- Kinds of pictures: functions of an image, uint8 (1, 28, 28), and a Chance ------------------


def clean_scan(image, chance):
    return encoded(written(drawn(image, chance), chance), "PNG")


def uneven_light(image, chance):
    light = 1 - chance.between(0.2, 0.6) * across(chance)
    return photographed(light * written(drawn(image, chance), chance), chance)


def hard_shadow(image, chance):
    """A shadow's edge runs through the picture; it is a few pixels soft."""
    edge = ((across(chance) - chance.between(0.3, 0.7)) * 100).sigmoid()
    light = 1 - chance.between(0.3, 0.6) * edge
    return photographed(light * written(drawn(image, chance), chance), chance)


def dark_frame(image, chance):
    """Around the paper one sees the table, or there is a border of a few pixels."""
    picture = written(drawn(image, chance, high=0.6, margin=0.12), chance)
    top, bottom, left, right = (round(chance.between(1, 40)) for _ in range(4))
    table = torch.full(SIZE, chance.between(0.05, 0.35))
    inside = (slice(top, SIZE[0] - bottom), slice(left, SIZE[1] - right))
    table[inside] = picture[inside]
    return photographed(table, chance)


def dust(image, chance):
    """Specks as dark as ink, up to a fortieth of the picture's height wide."""
    ink = drawn(image, chance)
    y, x = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])[None]
    for _ in range(round(chance.between(5, 40))):
        row, column = chance.between(0, SIZE[0]), chance.between(0, SIZE[1])
        near = (y - row) ** 2 + (x - column) ** 2 < chance.between(1, 6) ** 2
        ink = torch.maximum(ink, near.float())
    return photographed(written(ink, chance), chance)


def ruled_paper(image, chance):
    ink = drawn(image, chance)
    distance, phase = chance.between(30, 60), chance.between(0, 60)
    lines = ((torch.arange(SIZE[0]) + phase) % distance < 2).float()[:, None].expand(SIZE)
    paper = 0.9 * (1 - chance.between(0.1, 0.3) * lines)
    return photographed(written(ink, chance, paper, chance.between(0.6, 0.9)), chance)


def pencil(image, chance):
    """Grey and rough strokes on rough paper."""
    rough = (1 + 0.35 * grain(chance, 2)).clamp(0.3, 1.3)
    paper = 0.88 + 0.02 * grain(chance, 3)
    ink = drawn(image, chance) * rough
    return photographed(written(ink, chance, paper, chance.between(0.3, 0.5)), chance)


def chalk(image, chance):
    """Light and rough strokes on a smeared blackboard."""
    board = chance.between(0.1, 0.25) + 0.03 * grain(chance, 60)
    ink = drawn(image, chance) * (0.8 + 0.25 * grain(chance, 2)).clamp(0.2, 1)
    return photographed(board + ink * (chance.between(0.7, 0.95) - board), chance)


def small_digit(image, chance):
    """A tenth of the picture's height."""
    return photographed(written(drawn(image, chance, 0.1, 0.13), chance), chance, 0.01)


def dark_screenshot(image, chance):
    """Light ink on a dark canvas, below the title bar of a drawing program."""
    canvas = chance.between(0.05, 0.2)
    ink = drawn(image, chance, high=0.6, margin=0.12)
    picture = canvas + ink * (chance.between(0.8, 1.0) - canvas)
    picture[: round(chance.between(20, 40))] = chance.between(0.3, 0.5)
    return encoded(picture, "PNG")


KINDS = (
    clean_scan,
    uneven_light,
    hard_shadow,
    dark_frame,
    dust,
    ruled_paper,
    pencil,
    chalk,
    small_digit,
    dark_screenshot,
)


# --- For choosing read_picture's constants; KINDS judge them ------------------------------------


def squared_paper(image, chance):
    ink = drawn(image, chance)
    distance = chance.between(20, 40)
    rows = (torch.arange(SIZE[0]) % distance < 1.5).float()[:, None]
    columns = (torch.arange(SIZE[1]) % distance < 1.5).float()[None]
    paper = 0.92 * (1 - chance.between(0.1, 0.25) * torch.maximum(rows, columns))
    return photographed(written(ink, chance, paper, chance.between(0.6, 0.9)), chance)


def lamp(image, chance):
    """A bright spot somewhere, darker to the edges."""
    y = torch.linspace(-1, 1, SIZE[0])[:, None] - chance.between(-0.8, 0.8)
    x = torch.linspace(-1, 1, SIZE[1])[None] - chance.between(-0.8, 0.8)
    light = 0.35 + 0.65 * (-(x**2 + y**2) / 1.5).exp()
    return photographed(light * written(drawn(image, chance), chance), chance)


def edge_of_the_table(image, chance):
    """On one side the paper ends."""
    picture = written(drawn(image, chance, high=0.6, margin=0.15), chance)
    beyond = across(chance) < chance.between(0.02, 0.12)
    return photographed(torch.where(beyond, chance.between(0.1, 0.5), picture), chance)


def coffee(image, chance):
    """A pale stain with a darker rim."""
    y = torch.arange(SIZE[0])[:, None] - chance.between(0, SIZE[0])
    x = torch.arange(SIZE[1])[None] - chance.between(0, SIZE[1])
    distance = (x**2 + y**2).sqrt() / chance.between(80, 160)
    stain = 0.1 * (distance < 1) + 0.15 * (-((distance - 1) ** 2) * 800).exp()
    return photographed((1 - stain) * written(drawn(image, chance), chance), chance)


def marker_on_cardboard(image, chance):
    board = 0.55 + 0.03 * grain(chance, 6)
    return photographed(written(drawn(image, chance), chance, board, 0.75), chance)


KINDS_FOR_CHOOSING = (squared_paper, lamp, edge_of_the_table, coffee, marker_on_cardboard)


# --- The measurement ----------------------------------------------------------------------------


def photographs(kind, images):
    """Yield the bytes of a picture of this kind for each image, uint8 `(N, 1, 28, 28)`."""
    for number, image in enumerate(images):
        yield kind(image, Chance(f"{kind.__name__} {number}"))


def prepared(content, folder):
    """Return what `read_picture` makes of a picture's bytes, or None if it refuses them."""
    path = Path(folder, "digit")
    path.write_bytes(content)
    try:
        return read_picture(path)
    except DataError:
        return None


def draw_sheet(rows):
    """Return a matplotlib Figure: each row is two pictures, each beside its prepared image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 * len(rows)), dpi=100, layout="constrained")
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    for (name, pairs), line in zip(rows, axes, strict=True):
        line[0].set_title(name, fontsize=9, loc="left")
        for number, (content, image) in enumerate(pairs):
            line[2 * number].imshow(Image.open(io.BytesIO(content)))
            if image is not None:
                line[2 * number + 1].imshow(image[0, 0], cmap="gray")
    return figure


def main(argv=None):
    parser = ArgumentParser(description="Predict digits on simulated photographs.")
    parser.add_argument("weights", help="a file that model.py --save-model wrote")
    parser.add_argument(
        "--count", type=positive_int, default=60, metavar="N", help="pictures of each kind"
    )
    parser.add_argument(
        "--choosing", action="store_true", help="the kinds on which constants were chosen instead"
    )
    parser.add_argument("--sheet", type=picture_file, metavar="PATH", help="draw some of them")
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    digits = load_digits(args.dataset, args.data_dir)
    network = LightweightCNN()
    network.load_state_dict(torch.load(args.weights, weights_only=True))
    correct = predict(network, digits.test_images).argmax(1) == digits.test_labels
    # The last of the set, or for choosing the first, so that these never judge.
    index = correct.nonzero().squeeze(1)
    index = index[: args.count] if args.choosing else index[-args.count :]
    images, labels = digits.test_images[index], digits.test_labels[index].tolist()
    print("| kind | right | refused | wrong | of these above 90% confidence |")
    print("| --- | ---: | ---: | ---: | ---: |")
    totals, rows = torch.zeros(4, dtype=torch.long), []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS_FOR_CHOOSING if args.choosing else KINDS:
            counts, pairs = torch.zeros(4, dtype=torch.long), []
            for content, label in zip(photographs(kind, images), labels, strict=True):
                image = prepared(content, folder)
                pairs.append((content, image))
                if image is None:
                    counts[1] += 1
                    continue
                confidence, predicted = predict(network, image).softmax(1)[0].max(0)
                counts[0 if predicted == label else 2] += 1
                counts[3] += predicted != label and confidence > 0.9
            name = kind.__name__.replace("_", " ")
            rows.append((name, pairs[:2]))
            print(f"| {name} | {' | '.join(map(str, counts.tolist()))} |", flush=True)
            totals += counts
    print(f"| of {len(rows) * len(labels)} | {' | '.join(map(str, totals.tolist()))} |")
    if args.sheet is not None:
        write_picture(args.sheet, draw_sheet, rows)


if __name__ == "__main__":
    sys.exit(run(main))
