"""The report counts and ranks what happened, and can always be drawn."""

import math

import pytest
import torch

from model import Epoch, Progress
from support.digits import Digits
from support.report import confusion_matrix, draw_report, most_confident_mistakes


def test_matrix_and_mistakes_are_those_of_a_plain_loop():
    """True digits in rows; the highest softmax probability first."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 10, generator=generator)
    labels = torch.randint(10, (50,), generator=generator)
    counts, ranked = [[0] * 10 for _ in range(10)], []
    for index in range(50):
        row, label = [math.exp(logit) for logit in logits[index].tolist()], labels[index].item()
        predicted = row.index(max(row))
        counts[label][predicted] += 1
        if predicted != label:
            ranked.append((max(row) / sum(row), index))
    ranked.sort(reverse=True)
    assert confusion_matrix(labels, logits.argmax(1)).tolist() == counts
    indices, confidence = most_confident_mistakes(labels, logits, 5)
    assert indices.tolist() == [index for _, index in ranked[:5]]
    assert confidence.tolist() == pytest.approx([share for share, _ in ranked[:5]])


@pytest.mark.parametrize(("mistakes", "epochs"), [(0, 1), (11, 1), (25, 2)])
def test_report_can_be_drawn(mistakes, epochs):
    """Also without mistakes, or with a row of them that is not full."""
    labels = torch.arange(60) % 10
    images = torch.zeros(60, 1, 28, 28, dtype=torch.uint8)
    logits = torch.eye(10)[labels]
    labels[:mistakes] = 9 - labels[:mistakes]  # never the digit itself
    history = epochs * [Epoch([Progress(2, 2.0, 50.0), Progress(3, 1.5, 60.0)], 55.0)]
    digits = Digits(images, labels, images, labels, "my-digits")
    figure = draw_report(history, digits, logits, seed=7, bound=95)
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "my-digits: 55.00% test accuracy (60 images, seed 7)"
    drawn = [ax for ax in figure.axes if "→" in ax.get_title()]
    assert len(drawn) == min(mistakes, 20), "not the most confident mistakes, at most 20"
