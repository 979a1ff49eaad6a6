"""How much room the gates of test_model.py have: every gated figure over many seeds.

`python benchmarks/seeds.py --seeds 20 --dataset mnist` trains for seed 42, which every run has by
default, and for 20 others what the gates train, and the linear schedule besides. It prints for
every figure its mean, standard deviation (sd), minimum, 5th percentile and value at seed 42; the
gate, the room between mean and gate in sd, and the smallest loss that the gate catches, which is
the mean less the gate. On the stand-in it also tells how much of the genuine MNIST test set the
default network reads, if MNIST can be had.
"""

import argparse
import contextlib
import io
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import model
from augment import augment
from command_line import add_dataset_flags, exit_status, positive_int, use_one_thread
from dataset import DataError, load_digits
from test_model import ABOVE, errors_saved, mean_accuracy, moved, noisy, train_thirds


def figures(seed, digits, mnist):
    """Return every figure of one seed by the name of its gate; the last ones have none."""

    def train(**options):
        return model.train(digits.images, digits.labels, seed=seed, **options)

    with contextlib.redirect_stdout(io.StringIO()):  # 10 logs
        network, history = train()
        _, history_augmented = train(transform=augment)
        linear, _ = train(lr_schedule="linear")
        linear_augmented, _ = train(lr_schedule="linear", transform=augment)
        plain, augmented = train_thirds(digits, seed)
    images = digits.test_images / 255
    result = {
        "first epoch": model.first_epoch_accuracy(history),
        "first epoch, augmented": model.first_epoch_accuracy(history_augmented),
        "held out": mean_accuracy([network], images, digits),
        "noise 0.1": mean_accuracy(plain, noisy(images, 0.1), digits),
        "noise 0.2": mean_accuracy(plain, noisy(images, 0.2), digits),
        "errors saved": errors_saved(plain, augmented, digits),
        "held out, linear": mean_accuracy([linear], images, digits),
        "held out, linear, augmented": mean_accuracy([linear_augmented], images, digits),
        "moved digits, linear": mean_accuracy([linear], moved(images), digits),
        "moved digits, linear, augmented": mean_accuracy([linear_augmented], moved(images), digits),
    }
    if mnist is not None:
        result["genuine MNIST test set"] = model.evaluate(network, *mnist)
    return result


def table(rows):
    """Return the lines of a Markdown table of all figures; seed 42 is the first of the rows."""
    yield "| figure | mean | sd | min | 5 % | seed 42 | gate | room | catches |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name in rows[0]:
        values = [row[name] for row in rows]
        mean, sd = statistics.mean(values), statistics.stdev(values)
        percentile = statistics.quantiles(values, n=20, method="inclusive")[0]
        shown = [f"{v:.2f}" for v in (mean, sd, min(values), percentile, values[0])]
        gate = ["-", "-", "-"]
        if name in ABOVE:
            loss = mean - ABOVE[name]
            gate = [f"{ABOVE[name]:g}", f"{loss / sd:.1f} sd", f"{loss:.2f}"]
        yield f"| {name} | {' | '.join(shown + gate)} |"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--seeds", type=positive_int, default=20, metavar="N", help="seeds besides 42, from 0"
    )
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    use_one_thread()
    images, labels, source = load_digits(True, args.dataset, args.data_dir)
    test_images, test_labels, _ = load_digits(False, source, args.data_dir)
    mnist = None
    if source == "rendered":
        with contextlib.suppress(DataError):
            mnist = load_digits(False, "mnist", args.data_dir)[:2]
    digits = SimpleNamespace(
        images=images, labels=labels, test_images=test_images, test_labels=test_labels
    )
    rows = []
    for seed in [42, *(seed for seed in range(args.seeds) if seed != 42)]:
        rows.append(figures(seed, digits, mnist))
        print(f"seed {seed}: " + ", ".join(f"{k} {v:.2f}" for k, v in rows[-1].items()), flush=True)
    print(f"\n{len(rows)} seeds, {source} digits, torch {torch.__version__}, figures in percent\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    sys.exit(exit_status(main))
