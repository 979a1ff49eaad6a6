"""Your own digit: read from a picture, predicted and drawn, or refused in one clear message."""

import random
import re

import own_digit
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, run_python
from own_digit import draw_predictions, read_grey, read_picture
from PIL import Image, ImageDraw

from model import predict
from support.command_line import run
from support.digits import DataError

# --- Simulated photographs, with a digit and without ----------------------------------------------

HEIGHT, WIDTH = 480, 640
Y, X = torch.linspace(-1, 1, HEIGHT)[:, None], torch.linspace(-1, 1, WIDTH)[None]


def ink_of(image, chance):
    """Return the ink of an image, uint8 `(1, 28, 28)`, somewhere on a page, float in [0, 1]."""
    side = round(HEIGHT * chance.uniform(0.3, 0.7))  # of the 28 pixels
    ink = F.interpolate(image[None] / 255, (side, side), mode="bicubic")[0, 0]
    ink = ((ink - chance.uniform(0.3, 0.6)) * side / 28 + 0.5).clamp(0, 1)  # a wide or narrow pen
    top, left = chance.randint(40, HEIGHT - side - 40), chance.randint(40, WIDTH - side - 40)
    return F.pad(ink, (left, WIDTH - side - left, top, HEIGHT - side - top))  # (HEIGHT, WIDTH)


def soft_shadow(ink, chance):
    slope = chance.choice([-1, 1]) * Y + chance.uniform(-1, 1) * X
    shadow = (chance.uniform(4, 60) * slope).sigmoid()
    return (0.9 - 0.6 * ink) * (1 - chance.uniform(0.3, 0.6) * shadow)


def lamp(ink, chance):
    distance = (Y - chance.uniform(-0.8, 0.8)) ** 2 + (X - chance.uniform(-0.8, 0.8)) ** 2
    return (0.95 - 0.7 * ink) * (0.35 + 0.65 * (-distance / chance.uniform(0.5, 1.5)).exp())


def rules_in_shade(ink, chance):
    rules = (torch.arange(HEIGHT)[:, None] % chance.randint(30, 60) < 2).float()
    page = (0.9 - 0.6 * ink) * (1 - chance.uniform(0.1, 0.3) * rules)
    return page * (1 - chance.uniform(0.2, 0.5) * (X + 1) / 2)


def edge_of_the_table(ink, chance):
    beyond = X + chance.uniform(-0.3, 0.3) * Y > chance.uniform(0.96, 1.2)
    return torch.where(beyond, chance.uniform(0.05, 0.5), 0.9 - 0.6 * ink)


def fold(ink, chance):
    across = X + chance.uniform(-0.5, 0.5) * Y - chance.choice([-0.9, 0.9])
    crease = chance.uniform(0.05, 0.25) * (-((100 * across) ** 2)).exp()
    return (0.9 - 0.6 * ink) * (1 - crease) * (1 - chance.uniform(0.05, 0.2) * (across > 0))


def blackboard(ink, chance):
    generator = torch.Generator().manual_seed(chance.randint(0, 99))
    smears = torch.randn(1, 1, 8, 10, generator=generator)
    return 0.2 + 0.03 * F.interpolate(smears, (HEIGHT, WIDTH), mode="bicubic")[0, 0] + 0.6 * ink


KINDS = (soft_shadow, lamp, rules_in_shade, edge_of_the_table, fold, blackboard)


def predicted(network, kind, number, image, path):
    """Photograph an image as a telephone would; return the predicted digit, or None if refused."""
    chance = random.Random(f"{kind.__name__} {number}")
    page = kind(ink_of(image, chance), chance)
    noise = torch.randn(page.shape, generator=torch.Generator().manual_seed(number))
    grey = (255 * (page + 0.02 * noise)).round().clamp(0, 255).byte()
    Image.frombytes("L", (WIDTH, HEIGHT), grey.numpy().tobytes()).save(path, "JPEG", quality=70)
    try:
        return predict(network, read_picture(path)).argmax().item()
    except DataError:
        return None


def photograph(network, digits, numbers, folder):
    """Photograph a test digit for each of `numbers` on each kind of page, and such pages without.

    Returns:
        The photographs that are not predicted as their digit, and the empty pages that are read:
        two lists of the kind and number of the page, and the prediction.
    """
    images, labels = digits.test_images[:1000], digits.test_labels[:1000]
    correct = (predict(network, images).argmax(1) == labels).nonzero()[:, 0].tolist()
    wrong, read = [], []
    for kind in KINDS:
        for number in numbers:
            index = correct[number]
            answer = predicted(network, kind, number, images[index], folder / "digit")
            if answer != labels[index]:
                wrong.append((kind.__name__, number, answer))
            empty = torch.zeros(1, 28, 28)
            answer = predicted(network, kind, number, empty, folder / "digit")
            if answer is not None:
                read.append((kind.__name__, number, answer))
    return wrong, read


def test_digits_on_photographs_are_predicted_and_empty_pages_refused(default_run, digits, tmp_path):
    """Four digits on each kind of page, and four such pages without: at most 2 of 24 are wrong.

    The digits are those that the network predicts correctly as they are.
    """
    wrong, read = photograph(default_run.network, digits, range(4), tmp_path)
    assert len(wrong) <= 2, f"digits not predicted on photographs: {wrong}"
    assert len(read) <= 2, f"empty pages taken for a digit: {read}"


# --- Preparation --------------------------------------------------------------------------------


def drawn(left=90, top=60, ink="black", paper="white"):
    """A 7 drawn with a pen 16 pixels wide, in an area of 100 x 160 of 280 x 280 pixels."""
    picture = Image.new("RGB", (280, 280), paper)
    draw = ImageDraw.Draw(picture)
    points = [(left + x, top + y) for x, y in [(0, 0), (100, 0), (40, 160)]]
    draw.line(points, fill=ink, width=16, joint="curve")
    for x, y in points:  # round ends
        draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=ink)
    return picture


def read(picture, folder, **options):
    picture.save(folder / "digit", "PNG", **options)
    return read_picture(folder / "digit")


def test_picture_is_prepared_as_mnist_was(tmp_path):
    """White on black, 20 pixels in a 28 pixel field, centre of mass in the middle."""
    image = read(drawn(), tmp_path)
    assert (image.dtype, image.shape) == (torch.uint8, (1, 1, 28, 28))
    assert image.max() == 255
    ink = image[0, 0].float()
    rows, columns = ((ink > 100).any(side).nonzero() for side in (1, 0))
    height, width = (i.max().item() - i.min().item() + 1 for i in (rows, columns))
    assert (height, width) == (20, pytest.approx(20 * 116 / 176, abs=1))
    axis = torch.arange(28) - 13.5
    for side in (0, 1):
        assert abs((ink.sum(side) @ axis / ink.sum()).item()) <= 0.51


def transparent(picture):
    """Black ink on transparent paper, as drawing programs save it."""
    result = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    result.putalpha(picture.convert("L").point(lambda grey: 255 - grey))
    return result


def with_frame_thumb_and_dust(picture):
    """A black border of one pixel, in a corner something larger than the digit, and two specks."""
    for x, y in ((60, 40), (250, 100)):
        ImageDraw.Draw(picture).ellipse((x - 6, y - 6, x + 6, y + 6), fill="black")
    ImageDraw.Draw(picture).rectangle((0, 0, 279, 279), outline="black")
    ImageDraw.Draw(picture).ellipse((-60, 190, 60, 340), fill="black")
    return picture


LYING = Image.Exif()
LYING[0x0112] = 6  # Orientation: to be turned clockwise.
LARGE = drawn().resize((1400, 1400), Image.Resampling.BICUBIC)
PICTURES = {
    "off centre": (drawn(left=20, top=100), {}),
    "with more than a digit": (with_frame_thumb_and_dust(drawn(left=120, top=40)), {}),
    "white on black": (drawn(ink="white", paper="black"), {}),
    "colour": (drawn(ink="navy", paper="lightyellow"), {}),
    "large": (LARGE, {}),
    "transparent": (transparent(LARGE), {}),
    "lying": (drawn().transpose(Image.Transpose.ROTATE_90), {"exif": LYING}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_paper_ink_size_place_and_format_do_not_matter(tmp_path, name):
    """The image is the same but for rounding at the edges of the ink."""
    picture, options = PICTURES[name]
    difference = read(picture, tmp_path, **options).int() - read(drawn(), tmp_path).int()
    assert difference.abs().float().mean() < 5


# --- Refusals -----------------------------------------------------------------------------------


def two_digits():
    picture = drawn(left=150)
    ImageDraw.Draw(picture).line([(60, 60), (60, 220)], fill="black", width=16)
    return picture


def noise():
    values = 128 + 30 * torch.randn(280 * 280, generator=torch.Generator().manual_seed(0))
    return Image.frombytes("L", (280, 280), values.clamp(0, 255).byte().numpy().tobytes())


NOTHING = "shows no digit that stands out: take a picture of one handwritten digit alone"
REFUSED = {
    "white": (Image.new("L", (280, 280), 255), NOTHING),
    "noise": (noise(), NOTHING),
    "a line": (Image.new("L", (280, 1), 0), NOTHING),
    "a speck": (drawn().resize((10, 10)).crop((0, 0, 280, 280)), NOTHING),
    "at the border": (drawn(left=8), NOTHING),
    "two digits": (two_digits(), "shows more than one digit, or something else: take a picture"),
    "16 bits": (Image.new("I;16", (28, 28)), "cannot be read as a picture: it has more than 8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_picture_without_one_digit_is_refused(tmp_path, name):
    """By one line that says what to do."""
    picture, message = REFUSED[name]
    with pytest.raises(DataError) as error:
        read(picture, tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'digit'} {message}")
    assert "\n" not in str(error.value)


# --- The command --------------------------------------------------------------------------------


@pytest.fixture
def folder(default_run, tmp_path, monkeypatch):
    """The current folder of the user: weights.pt, a 7 on 7.png, an empty page, and a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes((default_run.folder / "weights.pt").read_bytes())
    drawn().save("7.png")
    Image.new("L", (280, 280), 255).save("empty.png")
    (tmp_path / "text.png").write_text("not a picture")
    return tmp_path


def test_command_prints_a_line_for_each_picture(folder):
    """As a user runs it, in another folder than the repository's; the weights are weights.pt."""
    done = run_python(ROOT / "examples/own_digit.py", "7.png", "7.png", cwd=folder)
    assert re.fullmatch(r"(7\.png: 7, confidence (\d\d|100)\.\d%\n){2}", done.stdout), done.stderr
    assert (done.returncode, done.stderr) == (0, "")


def test_pictures_without_a_digit_do_not_stop_the_others(folder, capsys):
    """An error line for each, and status 1 at the end; what was predicted is drawn."""
    pictures = ["empty.png", "7.png", "text.png", "missing.png"]
    assert run(own_digit.main, [*pictures, "--output", "seen.png"]) == 1
    out, err = capsys.readouterr()
    assert [line.split(",")[0] for line in out.splitlines()] == ["7.png: 7", "wrote seen.png"]
    messages = [line.split(": error: ")[1] for line in err.splitlines()]
    assert messages[0].startswith("empty.png shows no digit that stands out: take a picture of")
    assert messages[1].startswith("text.png cannot be read as a picture: ")
    assert messages[2] == "missing.png cannot be read as a picture: No such file or directory"
    assert len(messages) == 3
    assert run(own_digit.main, ["empty.png", "--output", "nothing.png"]) == 1
    assert not (folder / "nothing.png").exists()


def test_weights_that_are_missing_or_of_something_else_are_one_line(folder, capsys):
    torch.save({"fc.weight": torch.zeros(2)}, "other.pt")
    torch.save(torch.zeros(2), "tensor.pt")
    for weights, message in (
        ("new.pt", "there are no weights at new.pt; `python model.py --save-model new.pt` makes"),
        ("text.png", "text.png does not hold the weights of this network; --weights names another"),
        ("other.pt", "other.pt does not hold the weights of this network; --weights names another"),
        ("tensor.pt", "tensor.pt does not hold the weights of this network; --weights names"),
    ):
        assert run(own_digit.main, ["7.png", "--weights", weights]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.partition(": error: ")[2].startswith(message)


def test_figure_shows_picture_image_and_probabilities(tmp_path):
    """A row for each picture, for any number of classes; a name may be long, or hold a "$"."""
    paths = [tmp_path / "$7$.png", tmp_path / f"{'long' * 20}.png"]
    for path in paths:
        drawn().save(path)
    image = read_picture(paths[0])
    probabilities = torch.linspace(0, 1, 12)
    figure = draw_predictions([(path, image, probabilities) for path in paths])
    figure.draw_without_rendering()
    assert figure.get_figheight() == 4.5, "2 inches for each row, and the titles"
    axes = [figure.axes[index : index + 3] for index in (0, 3)]
    for (left, middle, right), path in zip(axes, paths, strict=True):
        assert torch.equal(torch.from_numpy(left.images[0].get_array().data), read_grey(path))
        assert torch.equal(torch.from_numpy(middle.images[0].get_array().data), image[0, 0])
        assert [bar.get_height() for bar in right.patches] == probabilities.tolist()
        colours = [bar.get_facecolor()[:3] for bar in right.patches]
        assert colours.index((0, 0, 0)) == 11, "the most probable class is black"
        assert list(right.get_xticks()) == list(range(12))
        assert (right.get_ylim(), list(right.get_yticks())) == ((0, 1), [0, 0.5, 1])
    assert axes[0][0].get_xlabel() == "$7$.png"
    assert axes[1][0].get_xlabel() == "longlonglo...onglong.png"
