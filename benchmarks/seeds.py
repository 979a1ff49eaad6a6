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
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))

import photographs as real
from speed import processor

import model
from augment import augment
from support import command_line as cli
from support.dataset import SOURCES, data_folder, load_digits
from support.digits import CLASSES, DataError
from test_model import (
    BOUNDS,
    accuracies_of_thirds,
    accuracies_under_noise,
    errors_saved,
    mean_accuracy,
    move_at_random,
    train_network,
    train_thirds,
)

load_digits = functools.cache(load_digits)  # once in each process


def accuracy_on_moved_digits(network, digits):
    return mean_accuracy([network], move_at_random(digits.test_images / 255), digits)


def default_run(seed, digits):
    """The metrics of `python model.py`."""
    network, history = train_network(seed, digits)
    return {
        "first epoch accuracy": history[0].progress[-1].accuracy,
        "test accuracy": history[-1].test_accuracy,
        "moved digits": accuracy_on_moved_digits(network, digits),
    }


def other_bounds(seed, digits):
    """The metrics of `python model.py --augment`, and of the networks trained on thirds."""
    network, history = train_network(seed, digits, transform=augment)
    without_augmentation, augmented = train_thirds(seed, digits)
    return {
        "moved digits, augmented": accuracy_on_moved_digits(network, digits),
        "first epoch accuracy, augmented": history[0].progress[-1].accuracy,
        **accuracies_of_thirds(without_augmentation, digits),
        **accuracies_under_noise(without_augmentation, digits),
        **errors_saved(without_augmentation, augmented, digits),
    }


def softmax_regression():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, CLASSES))


def mlp():
    """784 * 14 + 14 + 14 * 10 + 10 = 11,140 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 14), nn.ReLU(), nn.Linear(14, CLASSES))


def comparison(seed, digits):
    """The linear schedule, without and with `--augment`, and two simpler networks."""
    linear, history = train_network(seed, digits, lr_schedule="linear")
    both, history_of_both = train_network(seed, digits, lr_schedule="linear", transform=augment)
    simpler = []
    for build in (softmax_regression, mlp):
        torch.manual_seed(seed)
        simpler.append(model.train(build(), digits)[-1].test_accuracy)
    return {
        "test accuracy, linear": history[-1].test_accuracy,
        "test accuracy, linear, augmented": history_of_both[-1].test_accuracy,
        "moved digits, linear": accuracy_on_moved_digits(linear, digits),
        "moved digits, linear, augmented": accuracy_on_moved_digits(both, digits),
        "softmax regression": simpler[0],
        "MLP of 11,140 parameters": simpler[1],
    }


def photographs(seed, digits, images, labels, refused):
    """What `python model.py`, and the command that README has for own digits, make of photographs.

    Given are the digits on them, uint8 `(N, 1, 28, 28)` and int64 `(N,)`, and how many are refused.
    """
    percent = 100 / (len(labels) + refused)
    metrics = {"photographs refused": percent * refused}
    best = {"epochs": 4, "lr_schedule": "linear", "transform": augment}
    for name, options in {"": {}, ", 4 epochs, linear, augmented": best}.items():
        network, _ = train_network(seed, digits, **options)
        confidence, predictions = model.predict(network, images).softmax(1).max(1)  # (N,) each
        wrong = predictions != labels
        metrics[f"photographs right{name}"] = percent * (~wrong).sum().item()
        sure = (wrong & (confidence > 0.9)).sum().item()
        metrics[f"photographs wrong with > 90% confidence{name}"] = percent * sure
    return metrics


# The parts of the study, and how many seeds each has at most: on MNIST, and on any other digits.
PARTS = {
    default_run: (200, 20),
    other_bounds: (40, 20),
    comparison: (20, 0),
    photographs: (10, 0),
}


# What the names of metrics without a bound begin with, if a low value is good.
LOW_IS_GOOD = ("photographs refused", "photographs wrong")


def start_worker():
    """Take one thread of the machine, and leave Ctrl-C to the parent, which ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def measure(task):
    """Return one line of the study as a dictionary."""
    dataset, data_dir, part, seed, given = task
    digits = load_digits(dataset, data_dir)
    with contextlib.redirect_stdout(io.StringIO()):  # the logs of training
        metrics = part(seed, digits, *given)
    instructions = torch.backends.cpu.get_cpu_capability()
    machine = f"{processor()}, {instructions}, torch {torch.__version__}"
    line = {"dataset": digits.name, "seed": seed, "part": part.__name__, "machine": machine}
    if part is photographs:
        line["available"] = len(given[1]) + given[2]
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
            given = ()
            if part is photographs and count:
                given = real.read(real.fetch(data_folder(data_dir)))
            tasks += [(dataset, data_dir, part, seed, given) for seed in range(count)]
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
                if not line.keys() >= {"dataset", "part", "seed", "machine", "metrics"}:
                    raise DataError(f"{path} has a line that is not of seeds.py: {text[:80]}")
                lines[tuple(line[key] for key in ("dataset", "part", "seed", "machine"))] = line
    return list(lines.values())


def summary(name, values):
    """Return the cells of a metric's row: runs, mean, sd, worst, bound."""
    sign, bound, unit = BOUNDS.get(name, (">", None, "%"))
    worst = max if sign == "<" or name.startswith(LOW_IS_GOOD) else min
    sd = statistics.stdev(values) if len(values) > 1 else 0
    numbers = (statistics.mean(values), sd, worst(values))
    cells = [str(len(values)), *(f"{number:.2f}{unit}" for number in numbers)]
    return [*cells, "" if bound is None else f"{sign} {bound:g}{unit}"]


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
        for part in parts:
            for line in lines:
                if (line["dataset"], line["part"]) == (dataset, part):
                    for name, value in line["metrics"].items():
                        metrics.setdefault(name, []).append(value)
        if dataset != "MNIST":  # Others have bounds to keep, and results that nobody quotes.
            metrics = {name: values for name, values in metrics.items() if name in BOUNDS}
        text += ["", f"| {dataset} | runs | mean | sd | worst | bound |"]
        text.append(f"|---|{'---:|' * 5}")
        text += [f"| {name} | {' | '.join(summary(name, metrics[name]))} |" for name in metrics]
    return "\n".join(text)


def main(argv=None):
    """Measure, or read what earlier runs measured, and print the tables."""
    parser = cli.ArgumentParser(description="Measure the metrics of the gates over seeds.")
    add, count = parser.add_argument, {"type": cli.positive_int, "metavar": "N"}
    add("--seeds", **count, default=200, help="at most so many of each part")
    names = [part.__name__ for part in PARTS]
    add("--part", choices=names, help="only this one (default: all)")
    add("--jobs", **count, default=os.cpu_count(), help="processes at once")
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
    sys.exit(cli.run(main))
