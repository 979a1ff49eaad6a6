"""Predict handwritten digits on pictures of your own.

`python model.py --save-model weights.pt` trains the network, and
`python examples/own_digit.py digit.jpg --weights weights.pt` predicts the digit on digit.jpg.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model import LightweightCNN, predict
from support import command_line as cli
from support.digits import DataError, centred

# MAX_AT_EDGE and MAX_WIDTH were tried on 390 pictures by strangers, the others on simulated pages.
SEARCH_SIDE = 256  # pixels of the longer side of a picture while its digit is searched
MIN_SIDE = 16  # of these pixels, for the longer side of a digit
WINDOW = 1 / 4  # of the picture's shorter side: wider than a stroke, narrower than a shadow
DARKEST_PAPER = 0.4  # of white; the contrast on darker paper counts as if it were so light
MIN_CONTRAST = 0.15  # of ink to paper, as a share of the lighter of the two
MIN_STRENGTH = 0.4  # of ink, as a share of the strongest contrast
MIN_DEVIATIONS = 5  # between the means of ink and paper, in standard deviations of the paper
MAX_AT_EDGE = 0.02  # of a part's pixels: up to 1.9% of a closely cropped digit lay at the edge
MIN_SHARED = 0.5  # of a part's columns, which it shares with the digit: as the bar of a 5 does
MIN_BAR = 0.1  # of the largest part's area: a smaller part is dust, not a bar
MIN_OTHER = 0.3  # of the largest part's area: a part that is no bar is then another digit
MAX_WIDTH = 2  # of the digit's height: "52602" and "=" are wider
WHITE = 0.85  # of the pixels with ink have less of it than what becomes white: thin lines are faint
ADVICE = "take a picture of one handwritten digit alone"


# --- From a picture to an image like MNIST's --------------------------------------------------


def read_picture(path):
    """Return the digit in a picture file as an image like MNIST's, uint8 `(1, 1, 28, 28)`.

    The picture may have any size and any format of 8 bits that Pillow reads, and dark ink on light
    paper or the other way round. As in MNIST (http://yann.lecun.com/exdb/mnist/), the digit becomes
    white on black, is scaled to fit 20 x 20 pixels, and is centred by its mass.

    Elsewhere, run `import sys; sys.path.append("FOLDER/examples")` before
    `from own_digit import read_picture`, where FOLDER holds model.py.

    Raises:
        DataError: the file cannot be read, or does not show one digit.
    """
    return prepare(read_grey(path), path)


def read_grey(path):
    """Return a picture as float `(H, W)` in [0, 1], its longer side SEARCH_SIDE pixels long."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(Path(path).expanduser()) as file:
            if file.mode[0] in "IF":
                raise ValueError("it has more than 8 bits for a colour; save it with 8")
            picture = ImageOps.exif_transpose(file).convert("RGBA")
            paper = Image.new("RGBA", picture.size, "white")  # for transparent pictures
            picture = Image.alpha_composite(paper, picture).convert("L")
            picture = ImageOps.contain(picture, (SEARCH_SIDE, SEARCH_SIDE), Image.Resampling.BOX)
    except MemoryError:  # The picture may be sound.
        raise
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them.
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnidentifiedImageError):  # such as HEIC, in which telephones save
            formats = "it is none of JPEG, PNG, WebP, TIFF, BMP and GIF"
            reason = f"{formats} (telephones may save HEIC); save it as JPEG or PNG"
        raise DataError(f"{path} cannot be read as a picture: {reason}") from error
    grey = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return grey.view(picture.height, picture.width) / 255


def prepare(grey, name):
    """Return what `read_picture` does, from float `(H, W)` in [0, 1]; errors begin with `name`."""
    ink = find_ink(grey)
    try:
        digit = find_digit(ink)
    except DataError as error:
        raise DataError(f"{name} {error}") from error
    ink = ink * F.max_pool2d(digit.float()[None], 5, 1, 2)[0]  # with its soft edge
    rows, columns = (digit.any(side).nonzero().squeeze(1) for side in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    size = [max(1, round(scale * side)) for side in ink.shape]
    ink = F.interpolate(ink[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    ink = (ink / ink[ink > 0].quantile(WHITE)).clamp(0, 1)
    image = F.pad(ink, (0, 28 - size[1], 0, 28 - size[0]))  # (28, 28)
    return centred(image[None]).mul(255).round().byte().unsqueeze(1)


def find_ink(grey):
    """Return the contrast of each pixel of `grey`, `(H, W)`, to the paper around it, from 0 to 1.

    The paper is the morphological closing of the picture: the highest value in a window around each
    pixel, then the lowest of these. Strokes are narrower than the window, and vanish; shadows are
    wider. Paper minus picture is the black top-hat (Gonzalez and Woods, Digital Image Processing).
    For light ink on a dark ground, lowest and highest change places.
    """
    grey = F.avg_pool2d(grey[None], 3, 1, 1, count_include_pad=False)[0]  # less noise
    window = int(min(grey.shape) * WINDOW / 2) * 2 + 1
    mean = F.avg_pool2d(grey[None], window, 1, window // 2, count_include_pad=False)[0]
    # Ink is rarer than paper, and differs more from the mean: the skewness tells which is darker.
    polarity = -1 if (grey - mean).pow(3).mean() > 0 else 1
    paper = polarity * grey[None]  # (1, H, W)
    for sign in (1, -1):  # A square window in two steps, rows then columns, is much faster.
        paper = F.max_pool2d(sign * paper, (1, window), 1, (0, window // 2))
        paper = sign * F.max_pool2d(paper, (window, 1), 1, (window // 2, 0))
    paper = polarity * paper[0]
    # Relative to the lighter of the two, so that contrast is the same in a shadow.
    return polarity * (paper - grey) / torch.maximum(paper, grey).clamp(min=DARKEST_PAPER)


def find_digit(ink):
    """Return the digit's place in `ink`, bool `(H, W)`.

    Raises:
        DataError: there is no digit, or more than one, or it touches the edge.
    """
    strongest = ink.flatten().topk(100).values.mean().item()
    mask = ink > max(MIN_CONTRAST, MIN_STRENGTH * strongest)
    # If the mask is empty, its mean is NaN, and `clear` is False.
    clear = ink[mask].mean() - ink[~mask].mean() > MIN_DEVIATIONS * ink[~mask].std()
    # Grown by a pixel, to close gaps in a stroke, and at half the size, for speed: (H / 2, W / 2).
    half = F.max_pool2d(mask.float()[None], 4, stride=2, padding=1, ceil_mode=True)[0] > 0
    parts = find_parts(half) if clear else []
    inside = [part for part in parts if not at_edge(part)]
    if not inside or not is_large(inside[0]):
        if any(map(is_large, parts)):
            advice = "if it is the digit, leave some space on all sides"
            raise DataError(f"shows something that touches the edge of the picture; {advice}")
        raise DataError(f"shows no digit that stands out: {ADVICE}, in clear contrast")
    digit, others = inside[0], []
    for part in inside[1:]:
        shared = (part.any(0) & inside[0].any(0)).sum() / part.any(0).sum()
        if part.sum() > MIN_BAR * inside[0].sum() and shared > MIN_SHARED:
            digit = digit | part
        elif part.sum() > MIN_OTHER * inside[0].sum():
            others.append(part)
    if others or digit.any(0).sum() > MAX_WIDTH * digit.any(1).sum():
        raise DataError(f"shows more than one digit, or something else: {ADVICE}")
    digit = F.interpolate(digit.float()[None, None], scale_factor=2)[0, 0] > 0
    return mask & digit[: mask.shape[0], : mask.shape[1]]


def is_large(part):
    """Return whether a part, bool `(H / 2, W / 2)`, is large enough for a digit."""
    return 2 * max(part.any(0).sum(), part.any(1).sum()) >= MIN_SIDE


def at_edge(part):
    """Return whether a part is cut off by the edge of the picture, or is no digit.

    Frames, shadows and thumbs lie along the edge; folds and rules run from one edge to the other.
    """
    across = (part[0].any() and part[-1].any()) or (part[:, 0].any() and part[:, -1].any())
    return across or part.sum() - part[1:-1, 1:-1].sum() > MAX_AT_EDGE * part.sum()


def find_parts(mask):
    """Return the connected parts of a mask, bool `(H, W)` each, the largest first, at most 8."""
    labels = torch.arange(1.0, mask.numel() + 1).view(mask.shape) * mask
    before = torch.zeros(())
    while not torch.equal(before, labels):
        before = labels
        # A pixel takes the highest number of its neighbours; looking only after eight such steps
        # whether anything has changed saves time.
        for _ in range(8):
            labels = F.max_pool2d(labels[None], 3, 1, 1)[0] * mask
    numbers, areas = labels[mask].unique(return_counts=True)
    return [labels == numbers[k] for k in areas.argsort(descending=True)[:8]]


# --- Prediction -------------------------------------------------------------------------------


def load_network(path):
    """Return LightweightCNN with the weights that `python model.py --save-model` wrote.

    Raises:
        DataError: there is no such file, or it does not hold the weights of this network.
    """
    network = LightweightCNN()
    try:
        network.load_state_dict(torch.load(Path(path).expanduser(), weights_only=True))
    except FileNotFoundError as error:
        raise DataError(
            f"there are no weights at {path}; `python model.py --save-model {path}` makes them"
        ) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises many kinds for a file of another sort.
        first = "; ".join(str(error).split("\n\t")[1:2])  # the first layer that differs
        raise DataError(
            f"{path} does not hold the weights of this network; --weights names another file, and "
            f"`python model.py --save-model weights.pt` makes one. {first}"
        ) from error
    return network


def draw_predictions(rows):
    """Return a matplotlib Figure with a row for each picture.

    A row shows the picture, what the network sees of it, and the probability of each class.

    Args:
        rows: a tuple for each picture: its path, the picture, float `(H, W)` in [0, 1], its digit,
            uint8 `(1, 1, 28, 28)`, and the probabilities of the classes, float `(CLASSES,)`.
    """
    from matplotlib.figure import Figure

    size = (9, 2 * len(rows) + 0.5)  # inches
    figure = Figure(figsize=size, dpi=150, facecolor="0.88", layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, width_ratios=(1, 1, 2))
    axes[0, 1].set_title("What the network sees")
    axes[0, 2].set_title("Probabilities")
    for (left, middle, right), (path, grey, image, probabilities) in zip(axes, rows, strict=True):
        left.imshow(grey.numpy(), cmap="gray", vmin=0, vmax=1)
        name = Path(path).name
        name = name if len(name) <= 24 else f"{name[:10]}...{name[-11:]}"
        left.set_xlabel(name, parse_math=False)  # A "$" is a letter.
        middle.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=255)
        for ax in (left, middle):
            ax.set(xticks=[], yticks=[])
        classes = range(len(probabilities))
        bars = right.bar(classes, probabilities.tolist(), color="0.6")
        bars[probabilities.argmax().item()].set_color("black")
        right.set(xticks=classes, ylim=(0, 1), yticks=(0, 0.5, 1))
        right.set_yticklabels(("0%", "50%", "100%"))
    return figure


def main(argv=None):
    """Predict the digit on each picture, and draw the predictions as the flags say."""
    parser = cli.ArgumentParser(description="Predict handwritten digits on pictures of your own.")
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PICTURE", help="shows one handwritten digit")
    add("--weights", default="weights.pt", metavar="PATH", help="what model.py --save-model wrote")
    add("--output", type=cli.picture_file, metavar="PATH", help="draw them: .png, .pdf, .svg")
    args = parser.parse_args(argv)
    network = load_network(args.weights)
    rows, status = [], 0
    for path in args.pictures:
        try:
            grey = read_grey(path)
            image = prepare(grey, path)
        except DataError as error:  # The other pictures are predicted all the same.
            status = cli.fail(error)
            continue
        probabilities = predict(network, image).softmax(1)[0]  # (CLASSES,)
        digit, confidence = probabilities.argmax(), 100 * probabilities.max()
        print(f"{path}: {digit}, confidence {confidence:.1f}%", flush=True)
        rows.append((path, grey, image, probabilities))
    if args.output is not None and rows:
        cli.write_picture(args.output, draw_predictions, rows)
    return status


if __name__ == "__main__":
    sys.exit(cli.run(main))
