"""The sample sheet: `python augment.py`."""

import math

import pytest
import torch
from helpers import ROOT

import augment
from augment import SAMPLES
from support.digits import Digits
from support.sheet import draw_samples
from test_model import torchvision_affine


def test_sheet_shows_what_its_titles_say(digits):
    """The first test digit of each class, and each operation as torchvision does it."""
    figure = draw_samples(digits, SAMPLES)
    assert figure.get_suptitle() == f"Augmentation of {digits.name}"
    axes = torch.arange(len(figure.axes)).view(-1, 4)  # a row for each class
    for digit, row in zip(digits.test_labels.unique().tolist(), axes.tolist(), strict=True):
        original = digits.test_images[(digits.test_labels == digit).nonzero()[0]] / 255
        expected = {
            "Original": original,
            "Rotation 10° counter- clockwise": torchvision_affine(original, degrees=10),
            "Scale 90%": torchvision_affine(original, factor=0.9),
            "Translation 10% right": torchvision_affine(original, right=0.1),
        }
        assert figure.axes[row[0]].get_ylabel() == str(digit)
        for index, (title, image) in zip(row, expected.items(), strict=True):
            ax = figure.axes[index]
            titled = ax.get_title().replace("\n", " ")
            assert titled == title or (not titled and digit % math.ceil(len(axes) / 2))
            shown = torch.from_numpy(ax.images[0].get_array()[:, :, 0].copy()) / 255
            torch.testing.assert_close(shown, image[0, 0], atol=0.51 / 255, rtol=0, msg=title)


def test_committed_sheet_is_the_one_that_the_script_draws(digits, tmp_path, monkeypatch, capsys):
    """But for text, which versions of matplotlib draw differently: it is mostly at the top."""
    if digits.name != "MNIST":
        pytest.skip("the committed sheet is that of MNIST")
    import matplotlib.image

    path = tmp_path / "sheet.png"
    monkeypatch.setattr(augment, "load_digits", lambda *_: digits)
    augment.main(["--output", str(path)])
    assert capsys.readouterr() == (f"wrote {path}\n", "")
    fresh, committed = map(matplotlib.image.imread, (path, ROOT / "augmentation_samples.png"))
    changed = "run `python augment.py` and commit the picture"
    assert fresh.shape == committed.shape, changed
    different = (abs(fresh - committed) > 1.5 / 255)[168:].mean().item()
    assert different < 0.01, changed


def test_sheet_of_other_digits_leaves_the_one_of_mnist(monkeypatch, tmp_path, capsys):
    """Without `--output` each source has a file of its own."""
    images, labels = torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.arange(2)
    monkeypatch.setattr(augment, "ROOT", tmp_path)
    for name, end in {"MNIST": "", "rendered digits": "_rendered", "mine": "_mine"}.items():
        digits = Digits(images, labels, images, labels, name)
        monkeypatch.setattr(augment, "load_digits", lambda *_, digits=digits: digits)
        augment.main([])
        path = tmp_path / f"augmentation_samples{end}.png"
        assert path.exists()
        assert capsys.readouterr().out == f"wrote {path}\n"
