"""The sample sheet: `python augment.py`."""

import pytest
import torch
from helpers import ROOT

import augment
from support.digits import Digits


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
