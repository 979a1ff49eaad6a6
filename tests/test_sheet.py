"""The sample sheet: `python augment.py`."""

import pytest
import torch
from helpers import ROOT

import augment
from support.digits import Digits
from test_model import torchvision_affine


def test_samples_are_what_their_titles_say(digits):
    """As torchvision makes them."""
    original = digits.test_images[:5] / 255
    expected = {
        "Rotation\n10° counter-\nclockwise": torchvision_affine(original, degrees=10),
        "Scale\n90%": torchvision_affine(original, factor=0.9),
        "Translation\n10% right": torchvision_affine(original, right=0.1),
    }
    assert augment.SAMPLES.keys() == expected.keys()
    for title, images in expected.items():
        torch.testing.assert_close(augment.SAMPLES[title](original), images, atol=1e-4, rtol=0)


def test_committed_sheet_is_the_one_that_the_script_draws(digits, tmp_path, monkeypatch):
    """But for text, which versions of matplotlib draw differently: it is mostly at the top."""
    if digits.name != "MNIST":
        pytest.skip("the committed sheet is that of MNIST")
    import matplotlib.image

    monkeypatch.setattr(augment, "load_digits", lambda *_: digits)
    augment.main(["--output", str(tmp_path / "sheet.png")])
    assert (tmp_path / "sheet.png").exists(), "augment.py draws no sheet"
    sheets = (tmp_path / "sheet.png", ROOT / "augmentation_samples.png")
    fresh, committed = map(matplotlib.image.imread, sheets)
    changed = "run `python augment.py` and commit the picture"
    assert fresh.shape == committed.shape, changed
    assert (abs(fresh - committed) > 1.5 / 255)[168:].mean() < 0.01, changed


def test_sheet_of_other_digits_leaves_the_one_of_mnist(monkeypatch, tmp_path):
    images, labels = torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.arange(2)
    monkeypatch.setattr(augment, "ROOT", tmp_path)
    other = Digits(images, labels, images, labels, "rendered digits")
    monkeypatch.setattr(augment, "load_digits", lambda *_: other)
    augment.main([])
    assert [path.name for path in tmp_path.iterdir()] == ["augmentation_samples_rendered.png"]
