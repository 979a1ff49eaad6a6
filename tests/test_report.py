"""The picture of a run shows what happened."""

import math

import pytest
import torch

from model import Epoch, Progress
from support.digits import CLASSES, Digits
from support.report import confusion_matrix, draw_report, most_confident_mistakes
from test_model import BOUNDS


def test_confusion_matrix_counts_true_digits_in_rows():
    labels, predictions = torch.tensor([3, 3, 3, 5, 9]), torch.tensor([3, 8, 8, 5, 0])
    expected = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    expected[3, 3], expected[3, 8], expected[5, 5], expected[9, 0] = 1, 2, 1, 1
    assert torch.equal(confusion_matrix(labels, predictions), expected)


@pytest.mark.parametrize("count", [5, 20])
def test_mistakes_are_ranked_as_by_a_plain_loop(count):
    """Softmax over the ten logits of an image; the most confident first."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 10, generator=generator)
    labels = torch.randint(10, (50,), generator=generator)
    ranked = []
    for index in range(50):
        row = [math.exp(logit) for logit in logits[index].tolist()]
        if row.index(max(row)) != labels[index]:
            ranked.append((max(row) / sum(row), index))
    ranked.sort(reverse=True)
    indices, confidence = most_confident_mistakes(labels, logits, count)
    assert indices.tolist() == [index for _, index in ranked[:count]]
    assert confidence.tolist() == [pytest.approx(share, rel=1e-5) for share, _ in ranked[:count]]


def hand_built(mistakes, name="MNIST"):
    """60 test digits, image i grey of shade i and predicted as i % 10, and their logits.

    The first `mistakes` of them are wrong, the more confidently the higher i is.
    """
    index = torch.arange(60)
    logits = torch.zeros(60, 10)
    logits[index, index % 10] = 1 + index / 10
    labels = index % 10
    labels[:mistakes] = 9 - labels[:mistakes]  # never the digit itself
    images = index.byte().view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    return Digits(images, labels, images, labels, name), logits


ONE_EPOCH = [Epoch([Progress(2, 2.0, 50.0), Progress(3, 1.5, 60.0)], 55.0)]
TWO_EPOCHS = [*ONE_EPOCH, Epoch([Progress(2, 0.5, 90.0), Progress(3, 0.4, 91.0)], 58.33)]


def test_report_shows_history_counts_and_mistakes():
    """Lines, numbers and titles of the figure, for two epochs and 25 mistakes."""
    digits, logits = hand_built(25)
    figure = draw_report(TWO_EPOCHS, digits, logits, seed=7)
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "MNIST: 58.33% test accuracy (60 images, seed 7)"
    *mistakes, loss, accuracy, matrix = figure.axes
    for ax, values in ((loss, [[2.0, 1.5], [0.5, 0.4]]), (accuracy, [[50, 60], [90, 91]])):
        assert [list(line.get_xdata()) for line in ax.lines[:2]] == [[2, 3], [5, 6]]
        assert [list(line.get_ydata()) for line in ax.lines[:2]] == values
    assert [text.get_text() for ax in (loss, accuracy) for text in ax.texts] == ["0.4000", "91.00%"]
    test_accuracy, limit = accuracy.lines[2:]
    assert test_accuracy.get_xydata().tolist() == [[3, 55.0], [6, 58.33]]
    bound = BOUNDS["first epoch accuracy"][1]
    assert set(limit.get_ydata()) == {bound}, "correct BOUND in support/report.py"
    assert limit.get_label() == f"Bound: {bound:g}%"
    assert accuracy.get_ylim() == (45, 100), "not from 10 below the lowest accuracy of an epoch"
    assert 6 < loss.get_xlim()[1] == accuracy.get_xlim()[1] < 7, "the whole run is in view"
    shown = {text.get_position()[::-1]: text.get_text() for text in matrix.texts}
    assert (matrix.get_ylabel(), matrix.get_xlabel()) == ("True digit", "Predicted digit")
    assert matrix.get_title() == "Confusion matrix, mistakes shaded"
    assert list(matrix.get_xticks()) == list(matrix.get_yticks()) == list(range(CLASSES))
    assert (shown[0, 0], shown[9, 0]) == ("3", "3"), "true 0 and true 9, predicted 0"
    assert (0, 1) not in shown, "a zero is not written"
    assert len(mistakes) == 20
    confidence = logits.softmax(1).amax(1)
    for ax, index in zip(mistakes, range(24, 4, -1), strict=True):
        true, predicted = digits.test_labels[index].item(), index % 10
        assert ax.get_title() == f"{true} → {predicted}\n{100 * confidence[index]:.1f}%"
        assert ax.images[0].get_array()[0, 0] == index
        assert ax.images[0].get_clim() == (0, 255)


@pytest.mark.parametrize(("mistakes", "rows"), [(0, 0), (10, 1), (11, 2)])
def test_report_of_one_epoch_and_few_mistakes(mistakes, rows):
    """No points of test accuracy, and no place for mistakes that were not made."""
    figure = draw_report(ONE_EPOCH, *hand_built(mistakes, "my-digits"), seed=7)
    assert figure.get_suptitle() == "my-digits: 55.00% test accuracy (60 images, seed 7)"
    *shown, _, accuracy, matrix = figure.axes
    assert len(accuracy.lines) == 2, "one curve, and the bound"
    assert len(shown) == 10 * rows
    assert sum(bool(ax.get_title()) for ax in shown) == mistakes
    shaded = matrix.images[0].get_array()
    assert (shaded.diagonal().sum(), shaded.sum()) == (0, mistakes), "only mistakes are shaded"
