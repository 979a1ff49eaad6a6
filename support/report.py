"""One picture of a training run: `python model.py --report report.png`."""

import math

from matplotlib.figure import Figure

from support.digits import CLASSES


def confusion_matrix(labels, predictions):
    """Return how often each digit (rows) was predicted as each (columns).

    In a notebook, `predict(network, digits.test_images).argmax(1)` has the predictions.

    Args:
        labels, predictions: int64 `(N,)` from 0, below CLASSES.

    Returns:
        int64 `(CLASSES, CLASSES)`.
    """
    pairs = CLASSES * labels + predictions  # (N,)
    return pairs.bincount(minlength=CLASSES**2).view(CLASSES, CLASSES)


def most_confident_mistakes(labels, logits, count=20):
    """Return the indices of at most `count` wrongly predicted images, most confident first.

    Args:
        labels: int64 `(N,)`.
        logits: float `(N, CLASSES)`.

    Returns:
        Indices, int64 `(K,)`, and their confidence, the highest softmax probability, float `(K,)`.
    """
    confidence, predictions = logits.softmax(1).max(1)  # (N,) each
    wrong = (predictions != labels).nonzero().squeeze(1)
    indices = wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
    return indices, confidence[indices]


def draw_report(history, digits, logits, seed, bound):
    """Return a matplotlib Figure: learning curves, confusion matrix, most confident mistakes.

    Args:
        history: what `model.train` returned.
        digits: the `Digits` that the network was trained and tested on.
        logits: the network's logits of the test images, float `(N, CLASSES)`.
        seed: of the run, for the title.
        bound: of the first epoch accuracy, in percent.
    """
    predictions = logits.argmax(1)
    indices, confidence = most_confident_mistakes(digits.test_labels, logits)
    rows = math.ceil(len(indices) / 10)
    # Light grey: a white background would glare on a dark page.
    figure = Figure(figsize=(9, 5.2 + 1.3 * rows), dpi=200, facecolor="0.88", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # inches
    top, bottom = figure, None
    if rows:
        top, bottom = figure.subfigures(2, 1, height_ratios=(5, 1.3 * rows), facecolor="0.88")
        draw_mistakes(bottom, rows, digits, predictions, indices, confidence)
    left, right = top.subfigures(1, 2, facecolor="0.88")
    draw_curves(left, history, bound)
    draw_confusion(right.subplots(), confusion_matrix(digits.test_labels, predictions))
    figure.suptitle(
        f"{digits.name}: {history[-1].test_accuracy:.2f}% test accuracy "
        f"({len(predictions):,} images, seed {seed})"
    )
    return figure


def draw_curves(figure, history, bound):
    """Draw loss and accuracy over the batches; the running means restart with each epoch."""
    loss_axes, accuracy_axes = figure.subplots(2, 1, sharex=True)
    per_epoch = history[0].progress[-1].batch
    for epoch, (progress, _) in enumerate(history):
        batches = [epoch * per_epoch + p.batch for p in progress]
        loss_axes.plot(batches, [p.loss for p in progress], "k")
        accuracy_axes.plot(batches, [p.accuracy for p in progress], "k")
    end = len(history) * per_epoch
    if len(history) > 1:
        ends = range(per_epoch, end + 1, per_epoch)
        accuracies = [epoch.test_accuracy for epoch in history]
        accuracy_axes.plot(ends, accuracies, "D", color="0.5", label="Test accuracy")
    accuracy_axes.axhline(bound, color="0.4", linestyle="--", label=f"Bound: {bound:g}%")
    accuracy_axes.legend()
    _, loss, accuracy = history[-1].progress[-1]
    place = {"ha": "right", "textcoords": "offset points"}
    loss_axes.annotate(f"{loss:.4f}", (end, loss), (0, 6), va="bottom", **place)
    accuracy_axes.annotate(f"{accuracy:.2f}%", (end, accuracy), (0, -7), va="top", **place)
    loss_axes.set(title="Training loss, running mean", xlim=(0, 1.03 * end))
    loss_axes.set_ylim(bottom=0)
    # The first batches are left out, so that one sees where the curve crosses the bound.
    lowest = min(min(epoch.progress[-1].accuracy, epoch.test_accuracy) for epoch in history)
    accuracy_axes.set(title="Training accuracy, running mean", ylim=(min(90, lowest - 10), 100))
    accuracy_axes.set(ylabel="%", xlabel="Batch")
    for ax in (loss_axes, accuracy_axes):
        ax.grid(color="0.9")


def draw_confusion(ax, counts):
    """Draw the matrix with its counts: mistakes shaded by count, correct predictions on white."""
    mistakes = counts - counts.diag().diag()
    most = mistakes.max().clamp(min=1).item()
    ax.imshow(mistakes.numpy(), cmap="Greys", vmin=0, vmax=2 * most)  # at most a medium grey
    for true, predicted in counts.nonzero().tolist():
        colour = "0.4" if true == predicted else "black"
        place = {"ha": "center", "va": "center", "color": colour, "fontsize": 8}
        ax.text(predicted, true, counts[true, predicted].item(), **place)
    classes = range(len(counts))
    ax.set(title="Confusion matrix, mistakes shaded", xticks=classes, yticks=classes)
    ax.set(xlabel="Predicted digit", ylabel="True digit")


def draw_mistakes(figure, rows, digits, predictions, indices, confidence):
    """Draw the images at `indices`, ten in a row, with true digit, predicted digit, confidence."""
    figure.suptitle("Most confident mistakes: true → predicted digit, confidence")
    axes = figure.subplots(rows, 10, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, index, share in zip(axes, indices.tolist(), confidence.tolist(), strict=False):
        ax.imshow(digits.test_images[index, 0].numpy(), cmap="gray", vmin=0, vmax=255)
        true, predicted = digits.test_labels[index].item(), predictions[index].item()
        ax.set_title(f"{true} → {predicted}\n{100 * share:.1f}%", fontsize=9)
