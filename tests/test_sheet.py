"""The sample sheet: `python augment.py`."""

import io

import matplotlib.image
import pytest
import torch
from helpers import ROOT, run_python

import augment
from augment import SAMPLES
from support.dataset import Digits
from support.sheet import draw_samples
from test_model import torchvision_affine

SHEET = ROOT / "augmentation_samples.png"


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
    """The sheet as the script draws it."""
    if digits.name not in ("MNIST", "rendered digits"):
        pytest.skip("needs digits that a second process can load by --dataset")
    path = tmp_path_factory.mktemp("sheet") / "sheet.png"
    dataset = "mnist" if digits.name == "MNIST" else "rendered"
    done = run_python(ROOT / "augment.py", "--dataset", dataset, "--output", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {path}\n", "")
    return path


def test_sample_sheets_show_what_their_titles_say(digits, fresh_sheet):
    """The fresh sheet and, on MNIST, the committed one, pixel by pixel against torchvision."""
    figure = draw_samples(digits, SAMPLES)
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
    for path in [fresh_sheet, SHEET] if digits.name == "MNIST" else [fresh_sheet]:
        shown = pictures_in(path.read_bytes(), figure)
        # Half of one of the 256 greys of a picture is rounding.
        wrong = f"{path} shows something else: run `python augment.py` and commit the picture"
        torch.testing.assert_close(shown, expected, atol=0.51 / 255, rtol=0, msg=wrong)


def ten_black_images(name):
    images, labels = torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10)
    return Digits(images, labels, images, labels, name)


def test_words_and_places_on_the_sheet():
    """Title, columns, rows; everything is inside the picture, and gaps have one size."""
    figure = draw_samples(ten_black_images("my-digits"), SAMPLES)
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "Augmentation of my-digits"
    titles = ["Original", "Rotation 10° counter- clockwise", "Scale 90%", "Translation 10% right"]
    expected = [title for digit in range(10) for title in (titles if digit in (0, 5) else [""] * 4)]
    assert [ax.get_title().replace("\n", " ") for ax in figure.axes] == expected
    assert [ax.get_ylabel() for ax in figure.axes[::4]] == list("0123456789")
    for ax in figure.axes:
        extent = ax.get_tightbbox()
        assert 0 < extent.x0 < extent.x1 < figure.bbox.width
        assert 0 < extent.y0 < extent.y1 < figure.bbox.height
    first, right, below = (figure.axes[index].get_window_extent() for index in (0, 1, 4))
    assert first.width >= 28 * 5, "five pixels for one of MNIST's"
    gap = right.x0 - first.x1
    assert 0 < gap < 20
    assert gap == pytest.approx(first.y0 - below.y1)


def test_sheet_of_other_digits_leaves_the_one_of_mnist(monkeypatch, tmp_path, capsys):
    """Without `--output` each source has a file of its own."""
    monkeypatch.setattr(augment, "ROOT", tmp_path)
    for name, end in {"MNIST": "", "rendered digits": "_rendered", "mine": "_mine"}.items():
        monkeypatch.setattr(augment, "load_digits", lambda *_, name=name: ten_black_images(name))
        augment.main([])
        path = tmp_path / f"augmentation_samples{end}.png"
        assert path.exists()
        assert capsys.readouterr().out == f"wrote {path}\n"
