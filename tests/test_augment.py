"""What the random mix leaves alone, images of other shapes, and the sample sheet."""

import io

import matplotlib.image
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

import augment as augmentation
from augment import augment, draw_samples, rotate, scale, translate
from command_line import exit_status

SHEET = augmentation.Path(augmentation.__file__).with_name("augmentation_samples.png")


def torchvision_affine(images, degrees=0.0, shift=(0, 0), factor=1.0):
    """Counter-clockwise and in pixels: torchvision counts affine's angle clockwise."""
    options = {"shear": [0, 0], "interpolation": InterpolationMode.BILINEAR}
    return tvf.affine(images, -degrees, translate=list(shift), scale=factor, **options)


def test_images_of_any_size_and_channels():
    """A rotation of a wide image does not distort it; shifts are fractions of width and height."""
    images = torch.rand(3, 2, 28, 56)
    expected = torchvision_affine(images, degrees=25.0)
    torch.testing.assert_close(rotate(images, torch.full((3,), 25.0)), expected, atol=1e-4, rtol=0)
    expected = torchvision_affine(images, factor=0.8)
    torch.testing.assert_close(scale(images, torch.full((3,), 0.8)), expected, atol=1e-4, rtol=0)
    expected = torchvision_affine(images, shift=(5.6, 2.8))
    tenth = torch.full((3,), 0.1)
    torch.testing.assert_close(translate(images, tenth, tenth), expected, atol=1e-4, rtol=0)


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
    """Read the pictures off a sheet, float `(10, 4, 28, 28)`; `figure` tells where they are."""
    pixels = torch.from_numpy(
        matplotlib.image.imread(io.BytesIO(png), format="png")[:, :, 0].copy()
    )
    height, width = pixels.shape
    pictures = []
    for ax in figure.axes:
        box = ax.get_window_extent()
        assert (figure.bbox.width, figure.bbox.height) == (width, height)
        middle = (torch.arange(28) + 0.5) / 28
        columns = (box.x0 + middle * box.width).long()
        rows = (height - box.y1 + middle * box.height).long()
        pictures.append(pixels[rows][:, columns])
    return torch.stack(pictures).view(10, 4, 28, 28)


def test_sample_sheets_show_what_their_titles_say(digits, tmp_path, capsys):
    """The fresh sheet and, on MNIST, the committed one, pixel by pixel against torchvision."""
    path = tmp_path / "sheet.png"
    augmentation.main(["--dataset", digits.source, "--output", str(path)])
    assert str(path) in capsys.readouterr().out
    figure = draw_samples(digits.test_images, digits.test_labels, digits.source)
    figure.draw_without_rendering()
    titles = [ax.get_title().replace("\n", " ") for ax in figure.axes[:4]]
    assert titles == ["Original", "Rotation 10°", "Scale 90 %", "Translation 10 % right"]
    first = [(digits.test_labels == digit).nonzero()[0].item() for digit in range(10)]
    original = digits.test_images[first] / 255
    expected = torch.cat(
        [
            original,
            torchvision_affine(original, degrees=10),
            torchvision_affine(original, factor=0.9),
            torchvision_affine(original, shift=(2.8, 0)),
        ],
        dim=1,
    )  # (10, 4, 28, 28)
    for png in [path, SHEET] if digits.source == "mnist" else [path]:
        shown = pictures_in(png.read_bytes(), figure)
        torch.testing.assert_close(shown, expected, atol=0.01, rtol=0, msg=str(png))


def test_stand_in_sheet_leaves_the_one_of_mnist(monkeypatch, tmp_path, tiny_mnist, capsys):
    """Without `--output` each source has a file of its own."""
    monkeypatch.setattr(augmentation, "__file__", str(tmp_path / "augment.py"))
    tiny = torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10)
    for source in ("mnist", "rendered"):
        monkeypatch.setattr(augmentation, "load_digits", lambda *_, s=source: (*tiny, s))
        augmentation.main([])
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"augmentation_samples.png", "augmentation_samples_rendered.png"}


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
