"""Your own digit is predicted correctly, or refused in one clear message."""

import random

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from model import predict
from support.digits import DataError
from support.picture import read_picture

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


def test_digits_on_photographs_are_predicted_and_empty_pages_refused(default_run, digits, tmp_path):
    """Four digits on each kind of page, and four such pages without: at most 2 of 24 are wrong.

    The digits are those that the network predicts correctly as they are. Over 100 of each kind, 98%
    are predicted correctly, and 0.2% of the empty pages are taken for a digit.
    """
    network, path, wrong, read = default_run.network, tmp_path / "digit", [], []
    images, labels = digits.test_images[:100], digits.test_labels[:100]
    correct = (predict(network, images).argmax(1) == labels).nonzero()[:4, 0].tolist()
    for kind in KINDS:
        for number, index in enumerate(correct):
            answer = predicted(network, kind, number, images[index], path)
            if answer != labels[index]:
                wrong.append((kind.__name__, number, answer))
            if predicted(network, kind, number, torch.zeros(1, 28, 28), path) is not None:
                read.append((kind.__name__, number))
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


def test_file_that_is_not_a_picture_is_refused(tmp_path):
    """A folder, a missing file, and damaged ones."""
    path = tmp_path / "digit.png"
    for content in (None, b"", b"\x89PNG\r\n\x1a\n broken"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=r"digit\.png cannot be read as a picture: "):
            read_picture(path)
