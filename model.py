"""A 10,982-parameter CNN that learns MNIST in one CPU epoch: `python model.py`.

The file reads in the order in which things happen: network, training, evaluation, command line.
"""

import signal
import sys

if __name__ == "__main__":  # Ctrl-C ends quietly from here on: the imports alone take seconds.
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))

import argparse
import errno
import io
import logging
import math
import os
import time

import torch
import torch.nn.functional as F
from torch import nn

from augment import augment
from dataset import DataError, add_dataset_flags, load_digits, output_file, write_whole

log = logging.getLogger(__name__)


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
        # LeakyReLU is monotonic: after the pool, the same values for a quarter of the work.
        blocked = self._blocked_layout_fits(x)
        x = x.to_mkldnn() if blocked else x
        x = F.max_pool2d(self.bn1(self.conv1(x)), kernel_size=2, stride=2)  # (N, 12, 14, 14)
        x = x.to_dense() if blocked else x
        # From here on channels last is the fastest layout.
        x = F.leaky_relu(x.contiguous(memory_format=torch.channels_last), 0.1)
        x = F.leaky_relu(F.max_pool2d(self.bn2(self.conv2(x)), 2), 0.1)  # (N, 16, 7, 7)
        x = F.leaky_relu(F.max_pool2d(self.bn3(self.conv3(x)), 2), 0.1)  # (N, 20, 3, 3)
        x = self.dropout(x.flatten(1))  # (N, 180)
        x = F.leaky_relu(self.fc1(x), 0.1)  # (N, 32)
        return self.fc2(x)  # (N, 10)

    def _blocked_layout_fits(self, x):
        """Whether the first stage may run in oneDNN's blocked layout.

        It is the fastest there and gives the same results, but takes float32 on a CPU, and its
        batch norm has no backward pass in eval mode.
        """
        return (
            torch.backends.mkldnn.is_available()
            and torch.backends.mkldnn.enabled
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and (self.training or not torch.is_grad_enabled())
        )


def count_parameters(model):
    """Return the number of trainable parameters of `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- Training and evaluation ------------------------------------------------------------------


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
        log_interval: batches between two log lines.

    Returns:
        Mean cross-entropy loss per image and accuracy in percent, both measured while training.

    Raises:
        FloatingPointError: at the next log line after a loss that is not finite.
    """
    # Once a block of this size has been freed, glibc keeps freed memory for the next step. It could
    # otherwise give the activations back to the system and fetch them anew in every step.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    model.train()
    order = torch.randperm(len(images)).split(batch_size)
    total = len(order)
    loss_sum, correct, seen, first_bad = 0.0, 0, 0, None
    for batch, index in enumerate(order, start=1):
        # (B, 1, 28, 28) and (B,); index_select is faster than images[index].
        x, y = to_float(images.index_select(0, index)), labels.index_select(0, index)
        if transform is not None:
            x = transform(x)
        optimizer.zero_grad()
        logits = model(x)  # (B, 10)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        loss_sum += loss.item() * len(index)
        correct += (logits.argmax(1) == y).sum().item()
        seen += len(index)
        if first_bad is None and not math.isfinite(loss_sum):
            first_bad = batch
        if first_bad is not None and (batch % log_interval == 0 or batch == total):
            raise FloatingPointError(
                f"epoch {epoch}, batch {first_bad}/{total}: the loss is not finite; "
                "try a smaller --lr"
            )
        if batch % log_interval == 0:
            position = f"{batch}/{total},"
            log.info(
                f"Epoch {epoch}, Batch {position:<{2 * len(str(total)) + 2}} "
                f"Loss: {loss_sum / seen:.4f}, Accuracy: {100 * correct / seen:5.2f}%"
            )
    return loss_sum / seen, 100 * correct / seen


@torch.no_grad()
def evaluate(model, images, labels, batch_size=100):
    """Return the accuracy of `model` on the given images in percent.

    Runs in eval mode without gradients and leaves the model in the mode it was in.

    Args:
        images: uint8, or float32 in [0, 1], `(N, 1, 28, 28)`.
        labels: int64 `(N,)`.
        batch_size: by default small enough for memory to be reused, which is faster.
    """
    was_training = model.training
    model.eval()
    correct = 0
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        correct += (model(to_float(x)).argmax(1) == y).sum().item()
    model.train(was_training)
    return 100 * correct / len(images)


# --- Command line -----------------------------------------------------------------------------


class ISTFormatter(logging.Formatter):
    """Stamps log lines in Indian Standard Time, UTC+5:30 all year, whatever the host's zone is."""

    def __init__(self):
        super().__init__("[%(asctime)s IST] %(message)s", datefmt="%Y-%m-%d %H:%M:%S")

    @staticmethod
    def converter(seconds):
        return time.gmtime(seconds + 5.5 * 3600)  # A fixed offset needs no time-zone database.


class LogHandler(logging.StreamHandler):
    """Writes and flushes each line; a closed pipe is raised as BrokenPipeError, not printed."""

    def handleError(self, record):
        error = sys.exc_info()[1]
        if isinstance(error, OSError) and error.errno == errno.EINVAL:  # as Windows calls it
            raise BrokenPipeError from error
        raise


def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def seed(text):
    value = int(text)
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**64 - 1, got {text}")
    return value


def learning_rate(text):
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be finite and above 0, got {text}")
    return value


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description="Train LightweightCNN (10,982 parameters) on MNIST, on the CPU."
    )

    def add(flag, text, **options):
        shown = "" if options.get("default") is None else " (default: %(default)s)"
        parser.add_argument(flag, help=text + shown, **options)

    add("--epochs", "passes over the training set", type=positive_int, default=1, metavar="N")
    add("--batch-size", "images per update", type=positive_int, default=32, metavar="N")
    add("--lr", "learning rate of Adam", type=learning_rate, default=0.003, metavar="LR")
    add(
        "--lr-schedule",
        "keep the learning rate, or decay it to 0 over the whole run",
        choices=("constant", "linear"),
        default="constant",
    )
    add("--seed", "same seed, same weights", type=seed, default=42, metavar="S")
    add(
        "--log-interval",
        "batches between two log lines",
        type=positive_int,
        default=100,
        metavar="N",
    )
    add(
        "--augment",
        "rotate, shift or scale a random 20%% of the training images",
        action="store_true",
    )
    add_dataset_flags(parser)
    add(
        "--save-model",
        "write the trained state_dict to this file",
        type=output_file,
        metavar="PATH",
    )
    return parser.parse_args(argv)


def save_state_dict(model, path):
    """Write the model's state_dict to `path`, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_whole(path, buffer.getvalue())


def fit(images, labels, args):
    """Build a network and train it as the flags say, with a log.

    Args:
        images: uint8 `(N, 1, 28, 28)`.
        labels: int64 `(N,)`.
        args: result of `parse_args`.

    Returns:
        The network, and its running accuracy in the first epoch in percent.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    torch.manual_seed(args.seed)  # Before the network is built: the weights depend on it too.
    model = LightweightCNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)
    batches = math.ceil(len(images) / args.batch_size)
    steps = args.epochs * batches
    scheduler = None
    if args.lr_schedule == "linear":
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    log.info(f"Model initialized with {count_parameters(model):,} parameters")
    configuration = [
        "Training configuration:",
        "  - Device: cpu",
        f"  - Optimizer: Adam (lr={args.lr:g}{', linear decay to 0' if scheduler else ''})",
        "  - Loss: CrossEntropyLoss",
        f"  - Batch size: {args.batch_size}",
        f"  - Total batches per epoch: {batches}",
    ]
    if args.augment:
        configuration.append("  - Augmentation: rotation, translation or scaling of 20% of images")
    log.info("\n".join(configuration))
    accuracies = []
    for epoch in range(1, args.epochs + 1):
        log.info(f"Starting Epoch {epoch}")
        loss, accuracy = train_epoch(
            model,
            images,
            labels,
            optimizer,
            transform=augment if args.augment else None,
            scheduler=scheduler,
            epoch=epoch,
            batch_size=args.batch_size,
            log_interval=args.log_interval,
        )
        accuracies.append(accuracy)
        log.info(
            f"Epoch {epoch} completed - Final Loss: {loss:.4f}, Final Accuracy: {accuracy:.2f}%"
        )
    log.info("Training completed!")
    return model, accuracies[0]


def run(args):
    """Load the digits, train, evaluate and save as the flags say."""
    images, labels, source = load_digits(True, args.dataset, args.data_dir)
    test_images, test_labels, _ = load_digits(False, source, args.data_dir)
    if source == "mnist":
        start, kind = "Starting MNIST Training", "test images"
    else:
        start = "Starting Training on rendered stand-in digits, NOT on MNIST"
        kind = "rendered digits"
    log.info(start)
    model, first_accuracy = fit(images, labels, args)
    log.info(f"Final first epoch accuracy: {first_accuracy:.2f}%")
    accuracy = evaluate(model, test_images, test_labels)
    log.info(f"Accuracy on {len(test_images):,} held-out {kind}: {accuracy:.2f}%")
    if args.save_model is not None:
        save_state_dict(model, args.save_model)


def main(argv=None):
    """Run the command line and return its exit status.

    0: done. 1: unusable data, a loss that is not finite, or weights that cannot be written.
    141: nobody reads the output any more. Usage errors exit with 2, Ctrl-C with 130.
    """
    args = parse_args(argv)
    handler = LogHandler(sys.stdout)
    handler.setFormatter(ISTFormatter())
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        run(args)
    except BrokenPipeError:  # as in `python model.py | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 128 + 13  # the status of a program that SIGPIPE ended
    except (DataError, FloatingPointError, OSError) as error:
        print(f"model.py: error: {error}", file=sys.stderr)
        return 1
    finally:
        root.removeHandler(handler)
    return 0


if __name__ == "__main__":
    sys.exit(main())
