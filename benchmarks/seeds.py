"""How much room the metrics of test_model.py have to their bounds, over many seeds.

`python benchmarks/seeds.py | tee runs.txt` trains with up to 200 seeds what the gates train, and a
few networks for comparison; `--part` chooses one part. It prints one line of JSON for each finished
seed, and at the end the tables of benchmarks/README.md. `--tables FILE ...` prints the tables of
earlier runs, also of those that were cut short, and joins those of several machines.
"""

import contextlib
import functools
import io
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

sys.path.extend(
    str(Path(__file__).resolve().parents[1] / folder) for folder in (".", "examples", "tests")
)

from machine import processor
from test_own_digit import KINDS, photograph

import model
from augment import augment
from support.command_line import ArgumentParser, positive_int, run
from support.dataset import SOURCES, load_digits
from support.digits import CLASSES
from test_model import (
    BOUNDS,
    add_noise,
    errors_saved,
    mean_accuracy,
    move_at_random,
    recall_of_each_digit,
    train_thirds,
)

load_digits = functools.cache(load_digits)  # once in each process


# --- What is measured -------------------------------------------------------------------------


def train_seed(seed, digits, build=model.LightweightCNN, **options):
    """Return a trained network and what `train` returns of its first epoch."""
    torch.manual_seed(seed)
    network = build()
    return network, model.train(network, digits, **options)[0]


def calibration_error(logits, labels, bins=15):
    """Return the expected calibration error in percent (Guo et al., 2017).

    It is the mean distance of the confidence in a bin from the accuracy there.
    """
    confidence, predictions = logits.softmax(1).max(1)  # (N,) each
    excess = (confidence - (predictions == labels).float()).double()
    places = (confidence * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64).index_add(0, places, excess)
    return 100 * sums.abs().sum().item() / len(labels)


def default_run(seed, digits):
    """The metrics of `python model.py`."""
    network, epoch = train_seed(seed, digits)
    logits = model.predict(network, digits.test_images)
    return {
        "first epoch accuracy": epoch.progress[-1].accuracy,
        "test accuracy": epoch.test_accuracy,
        "expected calibration error": calibration_error(logits, digits.test_labels),
        "moved digits": mean_accuracy([network], move_at_random(digits.test_images / 255), digits),
    }


def other_bounds(seed, digits):
    """The metrics of `python model.py --augment`, and of the networks trained on thirds."""
    network, epoch = train_seed(seed, digits, transform=augment)
    without_augmentation, augmented = train_thirds(digits, seed)
    logits = [model.predict(network, digits.test_images) for network in without_augmentation]
    images = digits.test_images / 255

    def accuracy(images):
        return mean_accuracy(without_augmentation, images, digits)

    return {
        "moved digits, augmented": mean_accuracy([network], move_at_random(images), digits),
        "first epoch accuracy, augmented": epoch.progress[-1].accuracy,
        "test accuracy, mean of three": accuracy(digits.test_images),
        "lowest digit": recall_of_each_digit(logits, digits.test_labels).min().item(),
        "accuracy, noise 0.1": accuracy(add_noise(images, 0.1)),
        "accuracy, noise 0.2": accuracy(add_noise(images, 0.2)),
        "errors saved by augmentation": errors_saved(without_augmentation, augmented, digits),
    }


def softmax_regression():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, CLASSES))


def mlp():
    """784 * 14 + 14 + 14 * 10 + 10 = 11,140 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 14), nn.ReLU(), nn.Linear(14, CLASSES))


def comparison(seed, digits):
    """The linear schedule, without and with `--augment`, and two simpler networks."""
    linear, epoch = train_seed(seed, digits, lr_schedule="linear")
    both, epoch_of_both = train_seed(seed, digits, lr_schedule="linear", transform=augment)
    images = move_at_random(digits.test_images / 255)
    return {
        "test accuracy, linear": epoch.test_accuracy,
        "test accuracy, linear, augmented": epoch_of_both.test_accuracy,
        "moved digits, linear": mean_accuracy([linear], images, digits),
        "moved digits, linear, augmented": mean_accuracy([both], images, digits),
        "softmax regression": train_seed(seed, digits, softmax_regression)[1].test_accuracy,
        "MLP of 11,140 parameters": train_seed(seed, digits, mlp)[1].test_accuracy,
    }


def photographs(seed, digits):
    """Ten digits of its own for each seed on each kind of simulated page, and ten empty pages."""
    network, _ = train_seed(seed, digits)
    with tempfile.TemporaryDirectory() as folder:
        wrong, read = photograph(network, digits, range(10 * seed, 10 * seed + 10), Path(folder))
    pages = 10 * len(KINDS)
    return {
        "digits on photographs": 100 * (1 - len(wrong) / pages),
        "empty pages taken for a digit": 100 * len(read) / pages,
    }


# The parts of the study, and how many seeds each has at most: on MNIST, and on any other digits.
PARTS = {
    default_run: (200, 20),
    other_bounds: (40, 20),
    comparison: (20, 0),
    photographs: (10, 0),
}


# --- Processes --------------------------------------------------------------------------------


def start_worker():
    """Take one thread of the machine, and leave Ctrl-C to the parent, which ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def measure(task):
    """Return one line of the study as a dictionary."""
    dataset, data_dir, part, seed = task
    digits = load_digits(dataset, data_dir)
    with contextlib.redirect_stdout(io.StringIO()):  # the logs of training
        metrics = part(seed, digits)
    instructions = torch.backends.cpu.get_cpu_capability()
    machine = f"{processor()}, {instructions}, torch {torch.__version__}"
    line = {"dataset": digits.name, "seed": seed, "part": part.__name__, "machine": machine}
    # Two digits more than the tables show.
    return line | {"metrics": {name: round(value, 4) for name, value in metrics.items()}}


def measure_all(datasets, data_dir, parts, most, jobs):
    """Measure in processes of one thread each; print and return each line as it is done."""
    tasks, lines = [], []
    for dataset in datasets:
        load_digits(dataset, data_dir)  # Report bad data, or download it, before work starts.
        for part in parts:
            on_mnist, otherwise = PARTS[part]
            count = min(most, on_mnist if dataset == "mnist" else otherwise)
            tasks += [(dataset, data_dir, part, seed) for seed in range(count)]
    with multiprocessing.get_context("spawn").Pool(jobs, start_worker) as pool:
        for line in pool.imap_unordered(measure, tasks):
            lines.append(line)
            print(json.dumps(line), flush=True)
            print(f"{len(lines)}/{len(tasks)}", file=sys.stderr)
    return lines


def read_lines(paths):
    """Return the lines that earlier runs have printed, each seed of a machine once."""
    lines = {}
    for path in paths:
        for text in Path(path).read_text(encoding="utf-8").splitlines():
            if text.startswith("{"):
                line = json.loads(text)
                lines[tuple(line[key] for key in ("dataset", "part", "seed", "machine"))] = line
    return list(lines.values())


# --- Tables -----------------------------------------------------------------------------------


def summary(name, values):
    """Return the cells of a metric's row: runs, mean, sd, lowest, highest, bound, room.

    The room is the distance from the worst run to the bound; both are "" where there is no bound.
    """
    sign, bound, unit = BOUNDS.get(name, (">", None, "%"))
    form = ".2f" if unit == "%" else ".3g"
    sd = statistics.stdev(values) if len(values) > 1 else 0
    numbers = (statistics.mean(values), sd, min(values), max(values))
    cells = [str(len(values)), *(f"{number:{form}}{unit}" for number in numbers)]
    if bound is None:
        return [*cells, "", ""]
    room = min(values) - bound if sign == ">" else bound - max(values)
    return [*cells, f"{sign} {bound:g}{unit}", f"{room:{form}}"]


def tables(lines):
    """Return Markdown: a table of the machines, and one of the metrics of each set of digits."""
    parts = [part.__name__ for part in PARTS]
    text = [f"| machine | digits | {' | '.join(parts)} |", f"|---|---|{'---:|' * len(parts)}"]
    for machine, dataset in sorted({(line["machine"], line["dataset"]) for line in lines}):
        same = [line for line in lines if (line["machine"], line["dataset"]) == (machine, dataset)]
        counts = [str(sum(line["part"] == part for line in same)) for part in parts]
        text.append(f"| {machine} | {dataset} | {' | '.join(counts)} |")
    for dataset in sorted({line["dataset"] for line in lines}):
        metrics = {}
        for line in sorted(lines, key=lambda line: parts.index(line["part"])):
            if line["dataset"] == dataset:
                for name, value in line["metrics"].items():
                    metrics.setdefault(name, []).append(value)
        text += ["", f"| {dataset} | runs | mean | sd | lowest | highest | bound | room |"]
        text.append(f"|---|{'---:|' * 7}")
        text += [f"| {name} | {' | '.join(summary(name, metrics[name]))} |" for name in metrics]
    return "\n".join(text)


def main(argv=None):
    """Measure, or read what earlier runs measured, and print the tables."""
    parser = ArgumentParser(description="Measure the metrics of the gates over seeds.")
    add = parser.add_argument
    add("--seeds", type=positive_int, default=200, metavar="N", help="at most so many of each part")
    names = [part.__name__ for part in PARTS]
    add("--part", choices=names, help="only this one (default: all)")
    add("--jobs", type=positive_int, default=os.cpu_count(), metavar="N", help="processes at once")
    names = [name for name in SOURCES if name != "auto"]
    add("--dataset", choices=names, help="only this one (default: mnist and rendered)")
    add("--data-dir", metavar="DIR", help="as for model.py (default: $MNIST_DATA_DIR or data)")
    add("--tables", nargs="+", metavar="FILE", help="train nothing: tables of what was printed")
    args = parser.parse_args(argv)
    datasets = [args.dataset] if args.dataset else ["mnist", "rendered"]
    parts = [part for part in PARTS if args.part in (None, part.__name__)]
    if args.tables:
        lines = read_lines(args.tables)
    else:
        lines = measure_all(datasets, args.data_dir, parts, args.seeds, args.jobs)
    print(f"\n{tables(lines)}")


if __name__ == "__main__":
    sys.exit(run(main))
