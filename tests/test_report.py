"""The picture of a run shows what happened."""

import matplotlib.image
import numpy
import pytest
import torch

import model
from command_line import exit_status
from model import Progress
from report import confusion_matrix, draw_report, most_confident_mistakes


def test_confusion_matrix_counts_true_digits_in_rows():
    labels, predictions = torch.tensor([3, 3, 3, 5, 9]), torch.tensor([3, 8, 8, 5, 0])
    counts = confusion_matrix(labels, predictions)
    assert counts.shape == (10, 10)
    assert {(t, r): counts[t, r].item() for t, r in counts.nonzero().tolist()} == {
        (3, 3): 1,
        (3, 8): 2,
        (5, 5): 1,
        (9, 0): 1,
    }


def hand_built_logits():
    """Image i is read as digit i % 10, the more confidently the higher i is."""
    index = torch.arange(60)
    logits = torch.zeros(60, 10)
    logits[index, index % 10] = 1 + index / 10
    return logits


def test_mistakes_are_sorted_from_the_most_confident():
    labels = torch.arange(60) % 10
    wrong = [5, 17, 40, 41, 58]
    labels[wrong] = (labels[wrong] + 1) % 10
    assert most_confident_mistakes(labels, hand_built_logits()).tolist() == [58, 41, 40, 17, 5]
    assert most_confident_mistakes(labels, hand_built_logits(), count=2).tolist() == [58, 41]


def test_report_shows_history_counts_and_mistakes():
    """Lines, numbers and titles of the figure, for two epochs and 25 mistakes."""
    history = [Progress(1, 2, 2.0, 50.0), Progress(1, 3, 1.5, 60.0), Progress(2, 2, 0.5, 90.0)]
    history.append(Progress(2, 3, 0.4, 91.0))
    labels = torch.arange(60) % 10
    labels[:25] = 9 - labels[:25]  # never the digit itself
    images = torch.arange(60, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    figure = draw_report(history, images, labels, hand_built_logits(), "mnist", seed=7)
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "MNIST: 58.33 % of 60 held-out digits, seed 7"
    loss, accuracy, matrix, *mistakes = figure.axes
    for ax, values in ((loss, [[2.0, 1.5], [0.5, 0.4]]), (accuracy, [[50, 60], [90, 91]])):
        assert [list(line.get_xdata()) for line in ax.lines] == [[2, 3], [5, 6]]
        assert [list(line.get_ydata()) for line in ax.lines] == values
    shown = {text.get_position()[::-1]: text.get_text() for text in matrix.texts}
    assert (matrix.get_ylabel(), matrix.get_xlabel()) == ("true", "read")
    assert shown[0, 0] == "3"
    assert shown[9, 0] == "3", "true 9, read 0"
    assert shown[0, 1] == ""
    assert len(mistakes) == 20
    expected = hand_built_logits().softmax(1).amax(1)
    for ax, index in zip(mistakes, range(24, 4, -1), strict=True):
        true, read = labels[index].item(), index % 10
        assert ax.get_title() == f"{true} → {read}\n{100 * expected[index]:.1f} %"
        assert ax.images[0].get_array()[0, 0] == index


def test_report_of_a_real_run_is_grey(default_run):
    """And 900 pixels wide: readable in README and on paper."""
    pixels = matplotlib.image.imread(default_run.report)[:, :, :3]
    assert pixels.shape[1] == 900
    assert numpy.ptp(pixels, axis=2).max() == 0
    assert 0.5 < pixels.mean() < 0.98, "not blank"


@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF-"), ("svg", b"<?xml")]
)
def test_suffix_names_the_format(few_digits, tmp_path, suffix, magic):
    path = tmp_path / f"report.{suffix}"
    assert exit_status(model.main, ["--report", str(path)]) == 0
    assert path.read_bytes().startswith(magic)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
