"""One picture of a training run: `python model.py --report report.png`."""

from matplotlib.figure import Figure


def confusion_matrix(labels, predictions):
    """Return how often each digit (rows) was read as each digit (columns), int64 `(10, 10)`."""
    return (10 * labels + predictions).bincount(minlength=100).view(10, 10)


def most_confident_mistakes(labels, logits, count=20):
    """Return the indices of the misread images, the most confident first, at most `count`.

    Args:
        labels: int64 `(N,)`.
        logits: float `(N, 10)`; confidence is the highest of their softmax probabilities.
    """
    confidence, predictions = logits.softmax(1).max(1)
    wrong = (predictions != labels).nonzero().squeeze(1)
    return wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]


def draw_report(history, images, labels, logits, source, seed):
    """Return a matplotlib Figure: learning curves, confusion matrix, most confident mistakes.

    Args:
        history: list of Progress, as `model.train` returns it.
        images: held-out digits, uint8 `(N, 1, 28, 28)`.
        labels: int64 `(N,)`.
        logits: what the network made of the images, float `(N, 10)`.
        source: "mnist" or "rendered", for the title.
        seed: of the run, for the title.
    """
    predictions = logits.argmax(1)
    accuracy = 100 * (predictions == labels).double().mean().item()
    figure = Figure(figsize=(9, 8), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(5, 3))
    curves, matrix = top.subfigures(1, 2)
    kind = "MNIST" if source == "mnist" else "rendered stand-in digits, not MNIST"
    figure.suptitle(
        f"{kind}: {accuracy:.2f} % of {len(labels):,} held-out digits, seed {seed}", fontsize=14
    )
    draw_curves(curves, history)
    draw_confusion(matrix.subplots(), confusion_matrix(labels, predictions))
    mistakes = most_confident_mistakes(labels, logits)
    confidence = logits.softmax(1).amax(1)
    bottom.suptitle("Most confident mistakes: true → read, confidence")
    for ax in (axes := bottom.subplots(2, 10).ravel()):
        ax.set_axis_off()
    for ax, index in zip(axes, mistakes.tolist(), strict=False):
        ax.imshow(images[index, 0].numpy(), cmap="gray_r", vmin=0, vmax=255)
        ax.set_title(
            f"{labels[index]} → {predictions[index]}\n{100 * confidence[index]:.1f} %", fontsize=9
        )
    return figure


def draw_curves(figure, history):
    """Draw running loss and accuracy over the batches; each epoch starts its means afresh."""
    batches_per_epoch = max(progress.batch for progress in history)
    loss_axes, accuracy_axes = figure.subplots(2, 1, sharex=True)
    for epoch in range(1, history[-1].epoch + 1):
        part = [progress for progress in history if progress.epoch == epoch]
        batches = [(epoch - 1) * batches_per_epoch + progress.batch for progress in part]
        loss_axes.plot(batches, [progress.loss for progress in part], "k.-")
        accuracy_axes.plot(batches, [progress.accuracy for progress in part], "k.-")
    loss_axes.set(title="Running loss", ylim=(0, None))
    accuracy_axes.set(title="Running accuracy, %", xlabel="batch")
    for ax in (loss_axes, accuracy_axes):
        ax.grid(color="0.9")


def draw_confusion(ax, counts):
    """Draw the matrix with its counts; grey shows the mistakes, black the digits read right."""
    most = (counts - counts.diag().diag()).max().clamp(min=1).item()
    ax.imshow(counts.numpy(), cmap="Greys", vmin=0, vmax=2 * most)
    for true in range(10):
        for read in range(10):
            count = counts[true, read].item()
            shade = "white" if count > most else "black"
            ax.text(read, true, count or "", ha="center", va="center", color=shade, fontsize=8)
    ax.set(title="Confusion matrix", xlabel="read", ylabel="true")
    ax.set(xticks=range(10), yticks=range(10))
