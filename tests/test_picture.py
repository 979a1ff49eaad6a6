"""Your own digit is predicted correctly, or refused in one clear message."""

import math
import os

import pytest
import torch
from PIL import Image, ImageDraw

from model import predict
from support.dataset import DataError
from support.picture import read_picture


def drawn(digit, width, left=0, top=0, size=280, ink="black", paper="white"):
    """A 3 or a 7 drawn with a pen of the given width, in an area of 100 x 160 pixels."""
    picture = Image.new("RGB", (size, size), paper)
    draw = ImageDraw.Draw(picture)
    if digit == 7:
        points = [(0, 0), (100, 0), (40, 160)]
    else:  # two arcs, each clockwise from its upper left to its lower left
        angles = [math.radians(a) for a in range(-150, 121, 6)]
        upper = [(50 + 45 * math.cos(a), 40 + 40 * math.sin(a)) for a in angles[:-6]]
        lower = [(50 + 50 * math.cos(a), 115 + 45 * math.sin(a)) for a in angles[10:]]
        points = upper + lower
    points = [(left + x, top + y) for x, y in points]
    draw.line(points, fill=ink, width=width, joint="curve")
    for x, y in points:  # round ends
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=ink)
    return picture


@pytest.mark.parametrize("digit", [3, 7])
@pytest.mark.parametrize("width", [3, 8, 16, 28])
@pytest.mark.parametrize(("left", "top"), [(20, 20), (90, 60), (150, 100)])
def test_drawn_digit_is_predicted_correctly(default_run, tmp_path, digit, width, left, top):
    """280 x 280, black on white, thin to thick, wherever it stands."""
    path = tmp_path / "digit.png"
    drawn(digit, width, left, top).save(path)
    assert predict(default_run.network, read_picture(path)).argmax().item() == digit


def test_picture_is_prepared_as_mnist_was(tmp_path):
    """White on black, 20 pixels in a 28 pixel field, centre of mass in the middle."""
    path = tmp_path / "digit.png"
    drawn(7, 16, 90, 60).save(path)
    image = read_picture(path)
    assert (image.dtype, image.shape) == (torch.uint8, (1, 1, 28, 28))
    assert image.max() == 255
    assert image[0, 0, [0, -1]].max() == 0
    ink = image[0, 0].float()
    rows, columns = ((ink > 100).any(side).nonzero() for side in (1, 0))
    height, width = (i.max().item() - i.min().item() + 1 for i in (rows, columns))
    assert height == 20
    assert width == pytest.approx(20 * 116 / 176, abs=1)
    axis = torch.arange(28) - 13.5
    for side in (0, 1):
        assert abs((ink.sum(side) @ axis / ink.sum()).item()) <= 0.51


def transparent(picture):
    """Black ink on transparent paper, as drawing programs save it."""
    result = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    result.putalpha(picture.convert("L").point(lambda grey: 255 - grey))
    return result


@pytest.mark.parametrize(
    "picture",
    [
        drawn(7, 16, 20, 100),
        drawn(7, 16, 90, 60, ink="white", paper="black"),
        drawn(7, 16, 90, 60, ink="navy", paper="lightyellow"),
        drawn(7, 16, 90, 60).resize((560, 560), Image.Resampling.BICUBIC),
        drawn(7, 16, 90, 60).convert("L"),
        drawn(7, 16, 90, 60).convert("P"),
        transparent(drawn(7, 16, 90, 60)),
    ],
    ids=["off centre", "white on black", "colour", "larger", "grey", "palette", "transparent"],
)
def test_paper_ink_size_and_place_do_not_matter(tmp_path, picture):
    """The image is the same but for rounding at the edges of the ink."""
    drawn(7, 16, 90, 60).save(tmp_path / "plain.png")
    picture.save(tmp_path / "other.png")
    plain, other = (read_picture(tmp_path / f"{n}.png").int() for n in ("plain", "other"))
    assert (plain - other).abs().float().mean() < 2


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n broken"])
def test_file_that_is_not_a_picture_is_refused(tmp_path, content):
    path = tmp_path / "digit.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"digit\.png cannot be read as a picture: "):
        read_picture(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read as a picture: .*No such file"):
        read_picture(tmp_path / "digit.png")


@pytest.mark.parametrize("colour", ["white", "black", "gray"])
def test_blank_picture_is_refused(tmp_path, colour):
    path = tmp_path / "blank.png"
    Image.new("RGB", (280, 280), colour).save(path)
    with pytest.raises(DataError, match=r"blank\.png shows no digit: it is blank"):
        read_picture(path)


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, os.fspath(tmp_path))
    drawn(7, 16, 90, 60).save(tmp_path / "digit.png")
    assert read_picture("~/digit.png").max() == 255
