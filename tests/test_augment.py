"""What the random mix leaves alone, images of other shapes, and the sample sheet."""

import io
import sys

import matplotlib.image
import pytest
import torch
from helpers import HERE
from matplotlib.figure import Figure
from PIL import Image, ImageChops

import augment as augmentation
from augment import augment, draw_samples, warp
from support.command_line import exit_status
from support.dataset import Digits
from test_model import torchvision_affine

SHEET = HERE / "augmentation_samples.png"


@pytest.mark.parametrize(
    "amounts", [{"degrees": 25.0}, {"factor": 0.8}, {"right": 0.1, "down": 0.2}], ids=str
)
def test_images_of_any_size_and_channels(amounts):
    """A rotation of a wide image does not distort it; shifts are fractions of width and height."""
    images = torch.rand(3, 2, 28, 56)
    expected = torchvision_affine(images, **amounts)
    torch.testing.assert_close(warp(images, **amounts), expected, atol=1e-4, rtol=0)


def test_all_amounts_at_once():
    """Scaled and rotated, then shifted."""
    amounts = {"degrees": 25.0, "right": 0.1, "down": -0.2, "factor": 0.8}
    images = torch.rand(3, 1, 28, 28)
    expected = torchvision_affine(images, **amounts)
    torch.testing.assert_close(warp(images, **amounts), expected, atol=1e-4, rtol=0)


def test_p_is_the_chance_of_each_image(digits):
    images = digits.images[:1000] / 255
    assert augment(images, p=0.0) is images, "none chosen: the batch comes back as it is"
    generator = torch.Generator().manual_seed(0)
    for p, low, high in ((1.0, 1.0, 1.0), (0.5, 0.42, 0.58)):  # 5 standard deviations
        changed = (augment(images, p, generator) != images).flatten(1).any(1)
        assert low <= changed.double().mean().item() <= high


def test_generator_decides_everything(digits):
    """Same state, same result, without touching torch's global generator."""
    images = digits.images[:41] / 255
    state = torch.get_rng_state()
    first, again, other = (
        augment(images, p=0.5, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    by_default = augment(images, p=0.5)
    assert not torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(augment(images, p=0.5), by_default)


# --- The sample sheet -------------------------------------------------------------------------


def pictures_in(png, figure):
    """Read the pictures off a sheet, float `(40, 28, 28)`; `figure` tells where they are."""
    pixels = torch.from_numpy(
        matplotlib.image.imread(io.BytesIO(png), format="png")[:, :, 0].copy()
    )
    height, width = pixels.shape
    assert (figure.bbox.width, figure.bbox.height) == (width, height)
    pictures = []
    for ax in figure.axes:
        box = ax.get_window_extent()
        middle = (torch.arange(28) + 0.5) / 28
        columns = (box.x0 + middle * box.width).long()
        rows = (height - box.y1 + middle * box.height).long()
        pictures.append(pixels[rows][:, columns])
    return torch.stack(pictures)


@pytest.fixture(scope="module")
def fresh_sheet(digits, tmp_path_factory):
    """The sheet as augment.py writes it."""
    path = tmp_path_factory.mktemp("sheet") / "sheet.png"
    augmentation.main(["--dataset", digits.source, "--output", str(path)])
    return path


def test_sample_sheets_show_what_their_titles_say(digits, fresh_sheet):
    """The fresh sheet and, on MNIST, the committed one, pixel by pixel against torchvision."""
    figure = draw_samples(digits)
    figure.draw_without_rendering()
    first = [(digits.test_labels == digit).nonzero()[0].item() for digit in range(10)]
    original = digits.test_images[first] / 255
    expected = torch.cat(
        [
            original,
            torchvision_affine(original, degrees=10),
            torchvision_affine(original, factor=0.9),
            torchvision_affine(original, right=0.1),
        ],
        dim=1,
    ).flatten(0, 1)  # (40, 28, 28)
    for png in [fresh_sheet, SHEET] if digits.source == "mnist" else [fresh_sheet]:
        shown = pictures_in(png.read_bytes(), figure)
        # Half of one of the 256 greys of a picture is rounding.
        torch.testing.assert_close(shown, expected, atol=0.51 / 255, rtol=0, msg=str(png))


def test_committed_sheet_is_up_to_date(digits, fresh_sheet):
    """If this fails after you changed the drawing: run `python augment.py`.

    Other versions of matplotlib and other systems draw the type a little differently.
    """
    with Image.open(SHEET) as old, Image.open(fresh_sheet) as new:
        same_version = old.text["Software"] == new.text["Software"]
        if digits.source != "mnist" or sys.platform != "linux" or not same_version:
            pytest.skip("needs MNIST, Linux and the version of matplotlib that drew the sheet")
        assert old.size == new.size
        _, difference = ImageChops.difference(old.convert("L"), new.convert("L")).getextrema()
    assert difference <= 1, "rounding may differ between processors"


def ten_black_images(source):
    images, labels = torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10)
    return Digits(images, labels, images, labels, source)


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("mnist", "Augmentation of MNIST"),
        ("rendered", "Augmentation of rendered digits, not MNIST"),
        ("my digits", "Augmentation of my digits"),
    ],
)
def test_title_of_the_sheet_names_the_source(source, title):
    assert draw_samples(ten_black_images(source)).get_suptitle() == title


def test_words_and_places_on_the_sheet():
    """Columns, rows; everything inside the picture, and gaps of one size."""
    figure = draw_samples(ten_black_images("mnist"))
    figure.draw_without_rendering()
    columns = ["Original", "Rotation 10° counter- clockwise", "Scale 90%", "Translation 10% right"]
    boxes = {}
    for index, ax in enumerate(figure.axes):
        digit, column = divmod(index, 4)
        boxes[digit, column] = ax.get_position()
        has_title, has_label = digit in (0, 5), column == 0
        assert ax.get_title().replace("\n", " ") == (columns[column] if has_title else "")
        assert ax.get_ylabel() == (str(digit) if has_label else "")
        extent = ax.get_tightbbox()
        assert min(extent.x0, extent.y0) > 0
        assert extent.x1 < figure.bbox.width
        assert extent.y1 < figure.bbox.height
    width, height = figure.get_size_inches()
    across = (boxes[0, 1].x0 - boxes[0, 0].x1) * width
    down = (boxes[0, 0].y0 - boxes[1, 0].y1) * height
    assert across == pytest.approx(down)
    assert 0 < across < 0.1
    assert boxes[0, 0].width * width == pytest.approx(boxes[9, 3].height * height)
    assert figure.axes[0].get_window_extent().width >= 28 * 5, "five pixels for one of MNIST's"


def test_sheet_of_other_digits_leaves_the_one_of_mnist(monkeypatch, tmp_path, capsys):
    """Without `--output` each source has a file of its own."""
    monkeypatch.setattr(augmentation, "draw_samples", lambda _: Figure(figsize=(1, 1)))
    monkeypatch.setattr(augmentation, "__file__", str(tmp_path / "augment.py"))
    for source in ("mnist", "rendered"):
        tiny = ten_black_images(source)
        monkeypatch.setattr(augmentation, "load_digits", lambda *_, tiny=tiny: tiny)
        augmentation.main([])
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"augmentation_samples.png", "augmentation_samples_rendered.png"}
    paths = [tmp_path / "augmentation_samples.png", tmp_path / "augmentation_samples_rendered.png"]
    assert capsys.readouterr().out == "".join(f"wrote {path}\n" for path in paths)


def test_sample_sheet_reports_bad_input(tiny_mnist, tmp_path, capsys):
    (tiny_mnist.raw / "t10k-labels-idx1-ubyte").write_bytes(b"")
    sheet = tmp_path / "sheet.png"
    flags = ["--dataset", "auto", "--data-dir", str(tiny_mnist.folder), "--output", str(sheet)]
    assert exit_status(augmentation.main, flags) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not sheet.exists()
    for bad in (tmp_path / "no such folder" / "sheet.png", tmp_path / "sheet.jpg"):
        with pytest.raises(SystemExit) as exit:
            augmentation.main(["--output", str(bad)])
        assert exit.value.code == 2
        assert "--output" in capsys.readouterr().err
