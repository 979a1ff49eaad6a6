"""Your own digit: read from a picture, predicted and drawn, or refused in one clear message."""

import random
import re

import own_digit
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, run_python
from own_digit import draw_predictions, read_picture
from PIL import Image, ImageDraw

from model import predict
from support.command_line import run
from support.digits import DataError

HEIGHT, WIDTH = 480, 640


def ink_of(image, chance):
    """Return the ink of an image, uint8 `(1, 28, 28)`, somewhere on a page, float in [0, 1]."""
    side = round(HEIGHT * chance.uniform(0.3, 0.7))  # of the 28 pixels
    ink = F.interpolate(image[None] / 255, (side, side), mode="bicubic")[0, 0]
    ink = ((ink - chance.uniform(0.3, 0.6)) * side / 28 + 0.5).clamp(0, 1)  # a wide or narrow pen
    top, left = chance.randint(40, HEIGHT - side - 40), chance.randint(40, WIDTH - side - 40)
    return F.pad(ink, (left, WIDTH - side - left, top, HEIGHT - side - top))  # (HEIGHT, WIDTH)


def lamp(ink, y, x, chance):
    distance = (y - chance.uniform(-0.8, 0.8)) ** 2 + (x - chance.uniform(-0.8, 0.8)) ** 2
    return (0.95 - 0.7 * ink) * (0.35 + 0.65 * (-distance / chance.uniform(0.5, 1.5)).exp())


def fold_and_rules(ink, y, x, chance):
    across = x + chance.uniform(-0.5, 0.5) * y - chance.choice([-0.9, 0.9])
    crease = chance.uniform(0.05, 0.25) * (-((100 * across) ** 2)).exp()
    rules = (torch.arange(HEIGHT)[:, None] % chance.randint(30, 60) < 2).float()
    page = (0.9 - 0.6 * ink) * (1 - chance.uniform(0.1, 0.3) * rules)
    return page * (1 - crease) * (1 - chance.uniform(0.05, 0.2) * (across > 0))


def blackboard_at_its_edge(ink, y, x, chance):
    beyond = x + chance.uniform(-0.3, 0.3) * y > chance.uniform(0.96, 1.2)
    return torch.where(beyond, chance.uniform(0.5, 0.9), 0.2 + 0.6 * ink)


@pytest.mark.parametrize("kind", [lamp, fold_and_rules, blackboard_at_its_edge])
def test_digits_are_predicted_and_empty_pages_refused(default_run, digits, tmp_path, kind):
    """Eight digits that are predicted as they are, and eight empty pages: one of each may fail.

    Of 100 such pages of each kind, at most two failed.
    """
    y, x = torch.linspace(-1, 1, HEIGHT)[:, None], torch.linspace(-1, 1, WIDTH)[None]

    def predicted(image, number):
        """Photograph an image as a telephone would; return the prediction, or None if refused."""
        chance = random.Random(f"{kind.__name__} {number}")
        page = kind(ink_of(image, chance), y, x, chance)
        noise = torch.randn(page.shape, generator=torch.Generator().manual_seed(number))
        grey = (255 * (page + 0.02 * noise)).round().clamp(0, 255).byte().numpy().tobytes()
        Image.frombytes("L", (WIDTH, HEIGHT), grey).save(tmp_path / "page.jpg", quality=70)
        try:
            return predict(default_run.network, read_picture(tmp_path / "page.jpg")).argmax().item()
        except DataError:
            return None

    images, labels = digits.test_images[:99], digits.test_labels[:99]
    correct = (predict(default_run.network, images).argmax(1) == labels).nonzero()[:8, 0].tolist()
    wrong = [n for n, i in enumerate(correct) if predicted(images[i], n) != labels[i]]
    read = [n for n in range(8) if predicted(torch.zeros(1, 28, 28), n) is not None]
    assert len(wrong) <= 1, f"digits that are not predicted, by number: {wrong}"
    assert len(read) <= 1, f"empty pages taken for a digit: {read}"


SEVEN = [(90, 60), (190, 60), (130, 220)]


def drawn(points=SEVEN, width=16, ink="black", paper="white", box=(0, 0, 280, 280)):
    """A 7, or other strokes, drawn on 280 x 280 pixels; `box` is what the picture shows of it."""
    picture = Image.new("RGB", (280, 280), paper)
    draw = ImageDraw.Draw(picture)
    draw.line(points, fill=ink, width=width, joint="curve")
    for x, y in points:  # round ends
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=ink)
    return picture.crop(box)


def read(picture, folder, **options):
    picture.save(folder / "digit", "PNG", **options)
    return read_picture(folder / "digit")


def test_picture_is_prepared_as_mnist_was(tmp_path):
    """White on black, 20 pixels in a 28 pixel field, centre of mass in the middle."""
    image = read(drawn(), tmp_path)
    assert (image.dtype, image.shape, image.max()) == (torch.uint8, (1, 1, 28, 28), 255)
    ink, axis = image[0, 0].float(), torch.arange(28) - 13.5
    height, width = ((ink > 100).any(side).sum() for side in (1, 0))
    assert (height, width.item()) == (20, pytest.approx(20 * 116 / 176, abs=1))
    for side in (0, 1):
        assert abs((ink.sum(side) @ axis / ink.sum()).item()) <= 0.51


def transparent(picture):
    """Black ink on transparent paper, as drawing programs save it."""
    result = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    result.putalpha(picture.convert("L").point(lambda grey: 255 - grey))
    return result


def with_frame_and_thumb(picture):
    ImageDraw.Draw(picture).rectangle((0, 0, 279, 279), outline="black")
    ImageDraw.Draw(picture).ellipse((-60, 190, 60, 340), fill="black")
    return picture


LYING = Image.Exif()
LYING[0x0112] = 6  # Orientation: to be turned clockwise.
PICTURES = {
    "with a frame and a thumb": lambda: with_frame_and_thumb(drawn()),
    "closely cropped": lambda: drawn(box=(60, 30, 220, 226)),  # It cuts off the tip.
    "white on black": lambda: drawn(ink="white", paper="black"),
    "colour": lambda: drawn(ink="navy", paper="lightyellow"),
    "transparent": lambda: transparent(drawn()),
    "lying": lambda: drawn().transpose(Image.Transpose.ROTATE_90),
}


@pytest.mark.parametrize("name", PICTURES)
def test_paper_ink_place_and_format_do_not_matter(tmp_path, name):
    """The image is the same but for rounding at the edges of the ink."""
    options = {"exif": LYING} if name == "lying" else {}
    difference = read(PICTURES[name](), tmp_path, **options).int() - read(drawn(), tmp_path).int()
    assert difference.abs().float().mean() < 5


def test_thin_and_hatched_strokes_are_predicted(default_run, tmp_path):
    """A thin 7 fills less than 15% of its box; a hatched 1 is as broad as a thumb."""
    thin = [(42, 42), (160, 42), (160, 240)]
    hatched = [(130 + 20 * (step % 2), 50 + 6 * step) for step in range(30)]
    for points, width, digit in ((thin, 3, 7), (hatched, 4, 1)):
        image = read(drawn(points, width), tmp_path)
        assert predict(default_run.network, image).argmax() == digit


NOTHING = "shows no digit that stands out: take a picture of one handwritten digit alone"
SEVERAL = "shows more than one digit, or something else: take a picture of one"
REFUSED = {
    "white": (lambda: drawn(ink="white"), NOTHING),
    "noise": (lambda: Image.effect_noise((280, 280), 30), NOTHING),
    "a speck": (lambda: drawn([(140, 140)], 8), NOTHING),
    "cut off": (lambda: drawn(box=(140, 0, 280, 280)), "shows something that touches the edge"),
    "two digits": (lambda: Image.blend(drawn(), drawn([(60, 60), (60, 220)]), 0.5), SEVERAL),
    "wide": (lambda: drawn([(40, 140), (240, 130)]), SEVERAL),
    "16 bits": (lambda: Image.new("I;16", (28, 28)), "cannot be read as a picture: it has more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_picture_without_one_digit_is_refused(tmp_path, name):
    """By one line that says what to do."""
    picture, message = REFUSED[name]
    with pytest.raises(DataError) as error:
        read(picture(), tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'digit'} {message}")
    assert "\n" not in str(error.value)


def test_command_prints_a_line_for_each_picture_and_draws_them(default_run, tmp_path):
    """In another folder than the repository's; an error does not stop the others, but status 1."""
    (tmp_path / "weights.pt").write_bytes((default_run.folder / "weights.pt").read_bytes())
    drawn().save(tmp_path / "7.png")
    (tmp_path / "text.heic").write_text("not a picture")
    pictures = ["text.heic", "7.png", "missing.png"]
    command = [ROOT / "examples/own_digit.py", *pictures, "--output", "seen.png"]
    done = run_python(*command, cwd=tmp_path)
    lines = r"7\.png: 7, confidence (\d\d|100)\.\d%\nwrote seen\.png\n"
    assert re.fullmatch(lines, done.stdout), done.stderr
    messages = [line.partition(": error: ")[2] for line in done.stderr.splitlines()]
    assert messages[0].endswith("save it as JPEG or PNG")
    assert messages[1] == "missing.png cannot be read as a picture: No such file or directory"
    assert (done.returncode, len(messages)) == (1, 2)


def test_weights_that_are_missing_or_of_something_else_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": torch.zeros(24, 1, 3, 3)}, "other.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for weights, message in (
        ("new.pt", "there are no weights at new.pt; `python model.py --save-model new.pt` makes"),
        ("text.pt", "text.pt does not hold the weights of this network; --weights names another"),
        ("other.pt", "other.pt does not hold the weights of this network; --weights names another"),
    ):
        assert run(own_digit.main, ["7.png", "--weights", weights]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.partition(": error: ")[2].startswith(message)


def test_figure_shows_picture_digit_and_probabilities():
    grey, image = torch.rand(20, 30), torch.full((1, 1, 28, 28), 7, dtype=torch.uint8)
    figure = draw_predictions([("$7$.png", grey, image, torch.linspace(0, 1, 10))])
    figure.draw_without_rendering()
    left, middle, right = figure.axes
    assert (left.images[0].get_array() == grey.numpy()).all() and left.get_xlabel() == "$7$.png"
    assert (middle.images[0].get_array() == 7).all()
    assert [bar.get_height() for bar in right.patches] == torch.linspace(0, 1, 10).tolist()
