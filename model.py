"""A 10,982-parameter CNN that learns MNIST in one CPU epoch: `python model.py`.

The file reads in the order in which things happen: network, training, evaluation, command line.
"""

import argparse
import datetime
import io
import math
import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import command_line
from augment import augment
from dataset import load_digits

IST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))  # Indian Standard Time, all year


# --- The network ------------------------------------------------------------------------------


class LightweightCNN(nn.Module):
    """Three convolutions and two linear layers that map digit images to logits.

    Input: float32 `(N, 1, 28, 28)` in [0, 1]. Output: logits, float32 `(N, 10)`.
    """

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, kernel_size=3, padding=1)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 20, kernel_size=3, padding=1)
        self.bn3 = nn.BatchNorm2d(20)
        self.dropout = nn.Dropout(0.1)
        self.fc1 = nn.Linear(20 * 3 * 3, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        # One channel may stand first or last in memory. Declared to be last, without a copy, all
        # layers keep that order: the same values, and on one thread in less time.
        x = x.squeeze(1).unsqueeze(3).permute(0, 3, 1, 2)  # (N, 1, 28, 28)
        # LeakyReLU is monotonic: after the pool, the same values for a quarter of the work.
        x = F.leaky_relu(F.max_pool2d(self.bn1(self.conv1(x)), 2), 0.1)  # (N, 12, 14, 14)
        x = F.leaky_relu(F.max_pool2d(self.bn2(self.conv2(x)), 2), 0.1)  # (N, 16, 7, 7)
        x = F.leaky_relu(F.max_pool2d(self.bn3(self.conv3(x)), 2), 0.1)  # (N, 20, 3, 3)
        x = self.dropout(x.flatten(1))  # (N, 180)
        x = F.leaky_relu(self.fc1(x), 0.1)  # (N, 32)
        return self.fc2(x)  # (N, 10)


def count_parameters(model):
    """Return the number of trainable parameters of `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- Training ---------------------------------------------------------------------------------


class Progress(NamedTuple):
    """Mean loss per image, and accuracy in percent, from an epoch's start to the end of a batch."""

    epoch: int
    batch: int
    loss: float
    accuracy: float


def to_float(images):
    """Return images as float32 in [0, 1]: uint8 ones are divided by 255, float ones pass as is."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def train_epoch(
    model,
    images,
    labels,
    optimizer,
    *,
    transform=None,
    scheduler=None,
    epoch=1,
    batch_size=32,
    log_interval=100,
):
    """Train `model` for one pass over all images in random order.

    The set stays in memory as it is: each batch is picked by index and converted on its own. The
    order comes from torch's global generator. `scheduler`, if any, steps after every batch.

    Args:
        model: maps float32 `(N, 1, 28, 28)` to logits `(N, 10)`; left in train mode.
        images: uint8, or float32 in [0, 1], `(N, 1, 28, 28)`.
        labels: int64 `(N,)`.
        transform: changes each batch, float32 `(B, 1, 28, 28)` in [0, 1], before training on it.
        epoch: its number, for the log.
        log_interval: batches between two log lines.

    Returns:
        A list with the Progress at every log line and, last, at the end of the epoch.

    Raises:
        FloatingPointError: the loss of a batch is not finite; raised before its update.
    """
    model.train()
    history, loss_sum, correct, seen = [], 0.0, 0, 0
    batches = torch.randperm(len(images)).split(batch_size)
    for batch, index in enumerate(batches, start=1):
        x, y = to_float(images[index]), labels[index]  # (B, 1, 28, 28) and (B,)
        if transform is not None:
            x = transform(x)
        optimizer.zero_grad()
        logits = model(x)  # (B, 10)
        loss = F.cross_entropy(logits, y)
        if not loss.isfinite():
            where = f"epoch {epoch}, batch {batch}/{len(batches)}"
            raise FloatingPointError(f"{where}: the loss is not finite; try a smaller --lr")
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        loss_sum += loss.item() * len(y)
        correct += (logits.argmax(1) == y).sum().item()
        seen += len(y)
        if batch % log_interval == 0 or batch == len(batches):
            history.append(Progress(epoch, batch, loss_sum / seen, 100 * correct / seen))
        if batch % log_interval == 0:
            log_progress(history[-1], len(batches))
    return history


def train(
    images,
    labels,
    *,
    epochs=1,
    batch_size=32,
    lr=0.003,
    lr_schedule="constant",
    seed=42,
    transform=None,
    log_interval=100,
):
    """Build a LightweightCNN, train it with Adam and log it.

    Seeds torch's global generator, on which weights, order, dropout and `transform` depend.

    Args:
        images: uint8, or float32 in [0, 1], `(N, 1, 28, 28)`.
        labels: int64 `(N,)`.
        lr_schedule: "constant", or "linear" for a decay of the learning rate to 0 over all epochs.
        transform, log_interval: as for `train_epoch`.

    Returns:
        The network, and the list of Progress of all epochs.

    Raises:
        FloatingPointError: the loss of a batch is not finite.
        ValueError: `lr_schedule` is neither of the two.
    """
    if lr_schedule not in ("constant", "linear"):
        raise ValueError(f"lr_schedule must be constant or linear, got {lr_schedule!r}")
    torch.manual_seed(seed)  # Before the network is built: the weights depend on it too.
    model = LightweightCNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    batches = math.ceil(len(images) / batch_size)
    scheduler = None
    if lr_schedule == "linear":
        decay = torch.optim.lr_scheduler.LambdaLR
        scheduler = decay(optimizer, lambda step: 1 - step / (epochs * batches))
    log(f"Model initialized with {count_parameters(model):,} parameters")
    log("Training configuration:")
    print("  - Device: cpu")
    print(f"  - Optimizer: Adam (lr={lr:g}{', linear decay to 0' if scheduler else ''})")
    print("  - Loss: CrossEntropyLoss")
    print(f"  - Batch size: {batch_size}")
    print(f"  - Total batches per epoch: {batches}")
    if transform is not None:
        print(f"  - Transform: {getattr(transform, '__name__', transform)}")
    history = []
    for epoch in range(1, epochs + 1):
        log(f"Starting Epoch {epoch}")
        history += train_epoch(
            model,
            images,
            labels,
            optimizer,
            transform=transform,
            scheduler=scheduler,
            epoch=epoch,
            batch_size=batch_size,
            log_interval=log_interval,
        )
        _, _, loss, accuracy = history[-1]
        log(f"Epoch {epoch} completed - Final Loss: {loss:.4f}, Final Accuracy: {accuracy:.2f}%")
    log("Training completed!")
    return model, history


def first_epoch_accuracy(history):
    """Return the accuracy at the end of the first epoch, in percent, from a history of `train`."""
    return [progress.accuracy for progress in history if progress.epoch == 1][-1]


def log(text):
    """Print a line stamped in Indian Standard Time, whatever the host's zone is, at once."""
    print(f"[{datetime.datetime.now(IST):%Y-%m-%d %H:%M:%S} IST] {text}", flush=True)


def log_progress(progress, batches):
    """Log the figures after a batch, with the colons of an epoch below each other."""
    position = f"{progress.batch}/{batches},"
    log(
        f"Epoch {progress.epoch}, Batch {position:<{2 * len(str(batches)) + 2}} "
        f"Loss: {progress.loss:.4f}, Accuracy: {progress.accuracy:5.2f}%"
    )


# --- Evaluation -------------------------------------------------------------------------------


@torch.no_grad()
def predict(model, images, batch_size=100):
    """Return the logits of `model`, float32 `(N, 10)`, in eval mode and without gradients.

    Leaves the model in the mode it was in.

    Args:
        images: uint8, or float32 in [0, 1], `(N, 1, 28, 28)`.
    """
    was_training = model.training
    model.eval()
    logits = torch.cat([model(to_float(x)) for x in images.split(batch_size)])
    model.train(was_training)
    return logits


def evaluate(model, images, labels):
    """Return the accuracy of `model` in eval mode in percent; arguments as for `predict`."""
    return 100 * (predict(model, images).argmax(1) == labels).double().mean().item()


# --- Command line -----------------------------------------------------------------------------


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train LightweightCNN (10,982 parameters) on MNIST, on the CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, count = parser.add_argument, {"type": command_line.positive_int, "metavar": "N"}
    add("--epochs", default=1, help="passes over the training set", **count)
    add("--batch-size", default=32, help="images per update", **count)
    rate = {"type": command_line.learning_rate, "metavar": "LR"}
    add("--lr", default=0.003, help="learning rate of Adam", **rate)
    add(
        "--lr-schedule",
        choices=("constant", "linear"),
        default="constant",
        help="keep the learning rate, or decay it to 0 over the whole run",
    )
    add(
        "--seed",
        type=command_line.seed,
        default=42,
        metavar="S",
        help="same seed, same weights, on the same build of torch and kind of processor",
    )
    add("--log-interval", default=100, help="batches between two log lines", **count)
    add(
        "--augment",
        action="store_true",
        help="rotate, shift or scale a random 20%% of the training images",
    )
    command_line.add_dataset_flags(parser)
    add(
        "--save-model",
        type=command_line.output_file,
        metavar="PATH",
        help="write the trained state_dict to this file",
    )
    add(
        "--report",
        type=command_line.picture_file,
        metavar="PATH",
        help="draw the run: learning curves, confusion matrix, mistakes (.png, .pdf or .svg)",
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Load the digits, train, evaluate, save and draw as the flags say."""
    args = parse_args(argv)
    command_line.use_one_thread()
    images, labels, source = load_digits(True, args.dataset, args.data_dir)
    test_images, test_labels, _ = load_digits(False, source, args.data_dir)
    genuine = source == "mnist"
    name = "MNIST Training" if genuine else "Training on rendered stand-in digits, NOT on MNIST"
    log(f"Starting {name}")
    network, history = train(
        images,
        labels,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        lr_schedule=args.lr_schedule,
        seed=args.seed,
        transform=augment if args.augment else None,
        log_interval=args.log_interval,
    )
    log(f"Final first epoch accuracy: {first_epoch_accuracy(history):.2f}%")
    kind = "test images" if genuine else "rendered digits"
    accuracy = evaluate(network, test_images, test_labels)
    log(f"Accuracy on {len(test_images):,} held-out {kind}: {accuracy:.2f}%")
    if args.save_model is not None:
        weights = io.BytesIO()
        torch.save(network.state_dict(), weights)
        command_line.write_whole(args.save_model, weights.getvalue())
    if args.report is not None:
        from report import draw_report  # matplotlib takes a second to import.

        logits = predict(network, test_images)
        figure = draw_report(history, test_images, test_labels, logits, source, args.seed)
        command_line.write_figure(args.report, figure)


if __name__ == "__main__":
    sys.exit(command_line.exit_status(main))
