"""How much room the gates of test_model.py have: every gated figure over many seeds.

`python benchmarks/seeds.py --seeds 20 --dataset mnist` trains for each seed what the test suite
trains, and the linear schedule besides, and prints for every figure its mean, standard deviation
and minimum, the gate, and the room between mean and gate in standard deviations. On the stand-in it
also tells how much of the genuine MNIST test set the default network reads, if MNIST can be had.
"""

import argparse
import contextlib
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import model
from dataset import DataError, add_dataset_flags, load_digits
from test_model import GATES, errors_saved_on_moved_digits, moved, noisy


def figures(seed, digits, mnist):
    """Return every figure of one seed by the name of its gate; the last ones have none."""

    def train(*flags):
        args = model.parse_args(["--seed", str(seed), *flags])
        return model.fit(digits.images, digits.labels, args)

    def read(network, images):
        return model.evaluate(network, images, digits.test_labels)

    network, first_epoch = train()
    _, first_epoch_augmented = train("--augment")
    linear, _ = train("--lr-schedule", "linear")
    linear_augmented, _ = train("--lr-schedule", "linear", "--augment")
    images = digits.test_images / 255
    by_noise = {sigma: read(network, noisy(images, sigma)) for sigma in (0.1, 0.2, 1.0)}
    result = {
        "first epoch": first_epoch,
        "first epoch, augmented": first_epoch_augmented,
        "held out": read(network, images),
        "noise 0.1": by_noise[0.1],
        "noise 0.2": by_noise[0.2],
        "fall from noise 0.2 to 1.0": by_noise[0.2] - by_noise[1.0],
        # Three networks each: no two seeds of the study share one.
        "errors saved on moved digits": errors_saved_on_moved_digits(digits, seed=3 * seed),
        "held out, linear": read(linear, images),
        "held out, linear, augmented": read(linear_augmented, images),
        "moved digits, linear": read(linear, moved(images)),
        "moved digits, linear, augmented": read(linear_augmented, moved(images)),
    }
    if mnist is not None:
        result["genuine MNIST test set"] = model.evaluate(network, *mnist)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=model.positive_int, default=20, metavar="N")
    add_dataset_flags(parser)
    args = parser.parse_args()
    mnist = None
    try:
        images, labels, source = load_digits(True, args.dataset, args.data_dir)
        test_images, test_labels, _ = load_digits(False, source, args.data_dir)
        if source == "rendered":
            with contextlib.suppress(DataError):
                mnist = load_digits(False, "mnist", args.data_dir)[:2]
    except DataError as error:
        print(f"seeds.py: error: {error}", file=sys.stderr)
        return 1
    digits = SimpleNamespace(
        images=images, labels=labels, test_images=test_images, test_labels=test_labels
    )
    rows = []
    for seed in range(args.seeds):
        rows.append(figures(seed, digits, mnist))
        print(f"seed {seed}: " + ", ".join(f"{k} {v:.2f}" for k, v in rows[-1].items()), flush=True)

    print(f"\n{args.seeds} seeds, {source} digits, torch {torch.__version__}, figures in percent\n")
    print("| figure | mean | sd | min | gate | room |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in rows[0]:
        values = [row[name] for row in rows]
        mean = statistics.mean(values)
        sd = statistics.stdev(values) if len(values) > 1 else float("nan")
        gate = GATES.get(name)
        room = "| - | - |" if gate is None else f"| {gate:g} | {(mean - gate) / sd:.1f} sd |"
        print(f"| {name} | {mean:.2f} | {sd:.2f} | {min(values):.2f} {room}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
