"""A small CNN that learns MNIST in one epoch on the CPU: `python model.py`.

Read it from top to bottom: network, training, log, evaluation, command line. For a change, see
.github/CONTRIBUTING.md; how well the network does stands in benchmarks/README.md.
"""

import datetime
import io
import math
import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from augment import augment
from support import command_line as cli
from support.dataset import load_digits
from support.digits import CLASSES
from support.threads import one_thread

IST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))  # Indian Standard Time
FIRST_EPOCH_BOUND = 95.0  # percent; of the training accuracy, for the gate and the report


# --- The network ------------------------------------------------------------------------------


class LightweightCNN(nn.Module):
    """Convolutions, then linear layers, that map images of digits to logits.

    Input: float32 `(N, 1, 28, 28)` in [0, 1]. Output: logits, float32 `(N, CLASSES)`.

    To export a network, with x float32 `(2, 1, 28, 28)`: `torch.export.export(network.eval(), (x,),
    dynamic_shapes=({0: torch.export.Dim("batch")},))`.
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
        self.fc2 = nn.Linear(32, CLASSES)
        # Store the weights with their channels last. The convolutions are then faster on one
        # thread, and results change by rounding only.
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        if x.shape[1:] != (1, 28, 28):
            raise ValueError(f"images must have the shape (N, 1, 28, 28), got {tuple(x.shape)}")
        # The pool comes before LeakyReLU, which then has only a quarter of the values to compute.
        # The other order gives the same result, because LeakyReLU is increasing.
        x = F.leaky_relu(F.max_pool2d(self.bn1(self.conv1(x)), 2), 0.1)  # (N, 12, 14, 14)
        x = F.leaky_relu(F.max_pool2d(self.bn2(self.conv2(x)), 2), 0.1)  # (N, 16, 7, 7)
        x = F.leaky_relu(F.max_pool2d(self.bn3(self.conv3(x)), 2), 0.1)  # (N, 20, 3, 3)
        x = self.dropout(x.flatten(1))  # (N, 180)
        x = F.leaky_relu(self.fc1(x), 0.1)  # (N, 32)
        return self.fc2(x)  # (N, CLASSES)


def count_parameters(network):
    """Return the number of trainable parameters of `network`."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


# --- Training ---------------------------------------------------------------------------------

# Learning rate schedules. `done` is the share of all updates that are done, 0 at the first update;
# `lr` is multiplied by the result.
SCHEDULES = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
}


class Progress(NamedTuple):
    """After a batch: mean loss, and accuracy in percent, over the epoch's images so far.

    Each image is predicted before the network learns from its batch, and with dropout on.
    """

    batch: int
    loss: float
    accuracy: float


class Epoch(NamedTuple):
    """The Progress after each batch, and the test accuracy after the epoch, in percent."""

    progress: list
    test_accuracy: float


def to_float(images):
    """Return images as float32 in [0, 1]: uint8 is divided by 255, float is returned as it is."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


@one_thread()  # so that rounding, and with it the weights, does not depend on the number of cores
def train(
    network,
    digits,
    *,
    epochs=1,
    batch_size=32,
    lr=0.003,
    lr_schedule="constant",
    transform=None,
    log_interval=100,
):
    """Train `network` on one thread, log the progress, and leave the network in eval mode.

    The order of the images, dropout, a random `transform` such as `augment`, and the first weights
    of a new network are drawn from torch's global generator. So `torch.manual_seed(42)`, then a new
    LightweightCNN, then training on MNIST with the default arguments, give the weights that
    `python model.py` gives.

    Another call trains the network further, with a new optimizer, and counts epochs from 1 again.
    `torch.save(network.state_dict(), "weights.pt")` saves its weights, and
    `network.load_state_dict(torch.load("weights.pt", weights_only=True))` loads them.

    Args:
        network: maps float32 `(N, 1, 28, 28)` to logits `(N, CLASSES)`.
        digits: the `Digits` to train and test on, a named tuple. For a subset, pass
            `digits._replace(images=digits.images[:6000], labels=digits.labels[:6000])`.
        epochs: passes over the training images.
        batch_size: images per update, or all of them if there are fewer.
        lr: the learning rate, before `lr_schedule` changes it.
        lr_schedule: a name in SCHEDULES.
        transform: changes each batch, float32 `(N, 1, 28, 28)` in [0, 1], before the network.
        log_interval: batches from one line of the log to the next. The log goes to stdout;
            `contextlib.redirect_stdout(None)` silences it.

    Returns:
        The history: a list with an Epoch for each epoch.

    Raises:
        ValueError: `lr_schedule` is unknown, or a count is below 1.
        FloatingPointError: the loss, or a logit of a test image, is not finite.
    """
    if lr_schedule not in SCHEDULES:
        raise ValueError(f"lr_schedule must be one of {', '.join(SCHEDULES)}, got {lr_schedule!r}")
    counts = {"epochs": epochs, "batch_size": batch_size, "log_interval": log_interval}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    images, labels = digits.images, digits.labels
    batch_size = min(batch_size, len(images))
    batches = math.ceil(len(images) / batch_size)  # in an epoch
    # fused=True updates all parameters in one call, which is faster.
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, fused=True)
    criterion = nn.CrossEntropyLoss()
    schedule = SCHEDULES[lr_schedule]
    mnist = digits.name == "MNIST"
    log("Starting MNIST Training" if mnist else f"Starting Training on {digits.name}")
    log(f"Model initialized with {count_parameters(network):,} parameters")
    log_configuration(optimizer, lr_schedule, criterion, batch_size, batches, transform)
    history = []
    for epoch in range(1, epochs + 1):
        log(f"Starting Epoch {epoch}")
        network.train()
        progress, loss_sum, correct, seen = [], 0.0, 0, 0
        # DataLoader(shuffle=True) would shuffle, too, but copy each image on its own: slower.
        order = torch.randperm(len(images))
        for batch, indices in enumerate(order.split(batch_size), start=1):
            x = to_float(images[indices])  # (N, 1, 28, 28)
            y = labels[indices]  # (N,)
            if transform is not None:
                x = transform(x)
            optimizer.zero_grad()
            logits = network(x)  # (N, CLASSES)
            loss = criterion(logits, y)
            if not math.isfinite(loss.item()):
                message = "the loss is not finite; try a smaller learning rate (--lr)"
                raise FloatingPointError(f"epoch {epoch}, batch {batch}: {message}")
            loss.backward()
            done = ((epoch - 1) * batches + batch - 1) / (epochs * batches)
            optimizer.param_groups[0]["lr"] = lr * schedule(done)  # The group has all parameters.
            optimizer.step()

            loss_sum += loss.item() * len(y)  # since the last batch may be smaller
            correct += (logits.argmax(1) == y).sum().item()
            seen += len(y)
            mean_loss, accuracy = loss_sum / seen, 100 * correct / seen  # running means
            progress.append(Progress(batch, mean_loss, accuracy))
            if batch % log_interval == 0:
                place = f"{batch}/{batches},".ljust(len(f"{batches}/{batches},"))  # in columns
                result = f"Loss: {mean_loss:.4f}, Accuracy: {accuracy:5.2f}%"
                log(f"Epoch {epoch}, Batch {place} {result}")
        result = f"Final Loss: {mean_loss:.4f}, Final Accuracy: {accuracy:.2f}%"
        log(f"Epoch {epoch} completed - {result}")
        test_accuracy = evaluate(network, digits.test_images, digits.test_labels)
        if epochs > 1:  # With a single epoch, the last line of the log shows it.
            log(f"Epoch {epoch} test accuracy: {test_accuracy:.2f}%")
        history.append(Epoch(progress, test_accuracy))
    network.eval()  # for a caller who uses the network directly
    log("Training completed!")
    first_epoch_accuracy = history[0].progress[-1].accuracy  # on the training images
    log(f"Final first epoch accuracy: {first_epoch_accuracy:.2f}%")
    of_digits = "" if mnist else f" of {digits.name}"
    log(f"Accuracy on {len(digits.test_images):,} test images{of_digits}: {test_accuracy:.2f}%")
    return history


# --- The log ----------------------------------------------------------------------------------


def log(text):
    """Print with an IST timestamp, and flush."""
    print(f"[{datetime.datetime.now(IST):%Y-%m-%d %H:%M:%S} IST] {text}", flush=True)


def log_configuration(optimizer, lr_schedule, criterion, batch_size, batches, transform):
    """Log how the network is trained."""
    log("Training configuration:")
    print("  - Device: cpu")
    suffix = "" if lr_schedule == "constant" else f", {lr_schedule} schedule"
    print(f"  - Optimizer: {type(optimizer).__name__} (lr={optimizer.defaults['lr']:g}{suffix})")
    print(f"  - Loss: {type(criterion).__name__}")
    print(f"  - Batch size: {batch_size}")
    print(f"  - Total batches per epoch: {batches}")
    if transform is not None:
        print(f"  - Transform: {getattr(transform, '__name__', transform)}")


# --- Evaluation -------------------------------------------------------------------------------


@one_thread()
@torch.no_grad()
def predict(network, images):
    """Return the logits of `network`, float32 `(N, CLASSES)`, in eval mode and without gradients.

    Afterwards the network is in its original mode again, unless there was an error.

    Args:
        images: uint8, or float32 in [0, 1], `(N, 1, 28, 28)`; N > 0.
    """
    was_training = network.training
    network.eval()
    parts = images.split(100)  # to limit the memory
    logits = torch.cat([network(to_float(part)) for part in parts])
    network.train(was_training)
    return logits


def evaluate(network, images, labels):
    """Return the accuracy of `network` in eval mode, in percent.

    Args:
        images: uint8, or float32 in [0, 1], `(N, 1, 28, 28)`.
        labels: int64 `(N,)`.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    logits = predict(network, images)
    if not logits.isfinite().all():  # The last update can break the weights after a finite loss.
        raise FloatingPointError(
            "the network's logits are not finite; try a smaller learning rate (--lr)"
        )
    return 100 * (logits.argmax(1) == labels).double().mean().item()


# --- Command line -----------------------------------------------------------------------------


def parse_args(argv=None):
    """Return the flags, checked; print usage and exit with status 2 if one is wrong."""
    parser = cli.ArgumentParser(description="Train LightweightCNN to recognize digits, on the CPU.")
    add, count = parser.add_argument, {"type": cli.positive_int, "metavar": "N"}
    add("--epochs", **count, default=1, help="passes over the training images")
    add("--batch-size", **count, default=32, help="images per update")
    add("--lr", type=cli.learning_rate, default=0.003, metavar="LR", help="learning rate")
    add("--lr-schedule", choices=SCHEDULES, default="constant", help="linear: the rate falls to 0")
    add("--seed", type=cli.seed, default=42, metavar="S", help="seed of all random choices")
    add("--log-interval", **count, default=100, help="batches per log line")
    add("--augment", action="store_true", help="rotate, shift or scale 20%% of the training images")
    cli.add_dataset_flags(parser)
    add("--save-model", type=cli.output_file, metavar="PATH", help="save the weights (state_dict)")
    add("--report", type=cli.picture_file, metavar="PATH", help="draw the run: .png, .pdf, .svg")
    args = parser.parse_args(argv)
    if args.report and args.save_model and args.report.resolve() == args.save_model.resolve():
        parser.error(f"--save-model and --report are the same file: {args.report}")
    return args


def main(argv=None):
    """Load the digits, train, save and draw as the flags say."""
    args = parse_args(argv)
    digits = load_digits(args.dataset, args.data_dir)
    torch.manual_seed(args.seed)  # Before the network is built: its first weights are random.
    network = LightweightCNN()
    history = train(
        network,
        digits,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        lr_schedule=args.lr_schedule,
        transform=augment if args.augment else None,
        log_interval=args.log_interval,
    )
    if args.save_model is not None:
        weights = io.BytesIO()  # so that a failed write leaves no broken file
        torch.save(network.state_dict(), weights)
        cli.write_whole(args.save_model, weights.getvalue())
    if args.report is not None:
        from support.report import draw_report  # matplotlib is slow to import.

        logits = predict(network, digits.test_images)
        drawn = (history, digits, logits, args.seed, FIRST_EPOCH_BOUND)
        cli.write_picture(args.report, draw_report, *drawn)


if __name__ == "__main__":
    sys.exit(cli.run(main))
