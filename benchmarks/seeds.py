"""How much room the gates of test_model.py have: every gated figure over many seeds.

`python benchmarks/seeds.py --seeds 20 --dataset mnist` trains four networks per seed, as the test
suite does (constant and linear learning rate, each without and with augmentation), and prints
for each figure its mean, standard deviation and minimum, the gate, and the room between mean and
gate in standard deviations. On the stand-in it also tells how much of the genuine MNIST test set
the default network reads, if MNIST can be had.
"""

import argparse
import contextlib
import functools
import io
import re
import statistics
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import model
from dataset import DataError, add_dataset_flags, load_digits
from test_model import GATES, moved, noisy

READS_MNIST = "genuine MNIST test set"


def train(flags):
    """Run `model.py` with these flags and return its first-epoch accuracy and its network."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as log:
        weights = Path(folder, "weights.pt")
        if model.main([*flags, "--save-model", str(weights)]) != 0:
            sys.exit(1)
        network = model.LightweightCNN()
        network.load_state_dict(torch.load(weights, weights_only=True))
    return float(re.search(r"first epoch accuracy: (\S+)%", log.getvalue())[1]), network


def figures(seed, flags, test_images, test_labels, mnist):
    """Return every figure of one seed by the name of its gate."""
    recipes = {
        (schedule, augment): train(
            [*flags, "--seed", str(seed), "--lr-schedule", schedule, *["--augment"] * augment]
        )
        for schedule in ("constant", "linear")
        for augment in (False, True)
    }
    first_epoch, network = recipes["constant", False]
    images = test_images / 255

    def read(images, network=network):
        return model.evaluate(network, images, test_labels)

    by_noise = {sigma: read(noisy(images, sigma)) for sigma in (0.1, 0.2, 0.4)}
    clean = read(images)
    result = {
        "first epoch": first_epoch,
        "first epoch, augmented": recipes["constant", True][0],
        "held out": clean,
        "noise 0.1": by_noise[0.1],
        "noise 0.2": by_noise[0.2],
        "fall to noise 0.2": clean - by_noise[0.2],
        "fall to noise 0.4": by_noise[0.2] - by_noise[0.4],
        "gain on moved digits": read(moved(images), recipes["linear", True][1])
        - read(moved(images), recipes["linear", False][1]),
    }
    # Not gated, but worth knowing.
    result["held out, linear"] = read(images, recipes["linear", False][1])
    result["held out, linear, augmented"] = read(images, recipes["linear", True][1])
    if mnist is not None:
        result[READS_MNIST] = model.evaluate(network, *mnist)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=model.positive_int, default=20, metavar="N")
    add_dataset_flags(parser)
    args = parser.parse_args()
    mnist = None
    try:
        test_images, test_labels, source = load_digits(False, args.dataset, args.data_dir)
        if source == "rendered":
            with contextlib.suppress(DataError):
                mnist = load_digits(False, "mnist", args.data_dir)[:2]
    except DataError as error:
        print(f"seeds.py: error: {error}", file=sys.stderr)
        return 1
    model.load_digits = functools.cache(load_digits)  # Rendered once, not once per network.
    flags = ["--dataset", source, "--data-dir", str(args.data_dir)]
    rows = []
    for seed in range(args.seeds):
        rows.append(figures(seed, flags, test_images, test_labels, mnist))
        print(f"seed {seed}: " + ", ".join(f"{k} {v:.2f}" for k, v in rows[-1].items()), flush=True)

    print(f"\n{args.seeds} seeds, {source} digits, torch {torch.__version__}; percent\n")
    print("| figure | mean | sd | min | gate | room |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in rows[0]:
        values = [row[name] for row in rows]
        mean = statistics.mean(values)
        sd = statistics.stdev(values) if len(values) > 1 else float("nan")
        gate = GATES[source].get(name)
        room = "| - | - |" if gate is None else f"| {gate:g} | {(mean - gate) / sd:.1f} sd |"
        print(f"| {name} | {mean:.2f} | {sd:.2f} | {min(values):.2f} {room}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
