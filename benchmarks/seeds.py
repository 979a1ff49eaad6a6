"""How far the metrics of test_model.py stay from their gates, over many seeds.

`python benchmarks/seeds.py` trains for seed 42, which every run has by default, and for 20 others,
on MNIST and on rendered digits, what the gates train and a few networks for comparison. It prints
one line for each seed, then the table of README, then all metrics in percent: mean, standard
deviation (sd), lowest, 5th percentile, seed 42; gate, room (the distance from mean to gate in sd),
and the smallest drop that the gate notices (the same distance in percent).
"""

import contextlib
import functools
import io
import multiprocessing
import os
import signal
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import model
from augment import augment
from support.command_line import ArgumentParser, exit_status, positive_int
from support.dataset import SOURCES, DataError, load_digits
from test_model import (
    GATES,
    errors_saved,
    mean_accuracy,
    moved,
    noisy,
    recalls,
    train_thirds,
)

load_digits = functools.cache(load_digits)  # once in each process


def softmax_regression():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def mlp():
    """784 * 14 + 14 + 14 * 10 + 10 = 11,140 parameters, about as many as LightweightCNN."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 14), nn.ReLU(), nn.Linear(14, 10))


def metrics(seed, digits, mnist):
    """Return every metric of one seed by its name, in percent. Those in GATES come first.

    Args:
        digits: the `Digits` to train and test on.
        mnist: the `Digits` of MNIST if `digits` are others, or None.
    """

    def trained(build=model.LightweightCNN, **options):
        torch.manual_seed(seed)
        network = build()
        history = model.train(network, digits.images, digits.labels, **options)
        return network, history[0][-1].accuracy

    def test_accuracy(network):
        return model.evaluate(network, digits.test_images, digits.test_labels)

    with contextlib.redirect_stdout(io.StringIO()):  # 12 logs
        network, first_epoch = trained()
        _, first_epoch_augmented = trained(transform=augment)
        linear, _ = trained(lr_schedule="linear")
        linear_augmented, _ = trained(lr_schedule="linear", transform=augment)
        softmax, _ = trained(softmax_regression)
        perceptron, _ = trained(mlp)
        plain, augmented = train_thirds(digits, seed)
    images = digits.test_images / 255
    plain_logits = [model.predict(network, digits.test_images) for network in plain]
    result = {
        "first epoch accuracy": first_epoch,
        "first epoch accuracy, augmented": first_epoch_augmented,
        "test accuracy": test_accuracy(network),
        "lowest digit": recalls(plain_logits, digits.test_labels).min().item(),
        "accuracy, noise 0.1": mean_accuracy(plain, noisy(images, 0.1), digits),
        "accuracy, noise 0.2": mean_accuracy(plain, noisy(images, 0.2), digits),
        "errors saved by augmentation": errors_saved(plain, augmented, digits),
        "test accuracy, linear": test_accuracy(linear),
        "test accuracy, linear, augmented": test_accuracy(linear_augmented),
        "moved digits, linear": mean_accuracy([linear], moved(images), digits),
        "moved digits, linear, augmented": mean_accuracy([linear_augmented], moved(images), digits),
        "test accuracy, softmax regression": test_accuracy(softmax),
        "test accuracy, MLP of 11,140 parameters": test_accuracy(perceptron),
    }
    missing = {name for name, (_, _, unit) in GATES.items() if unit} - result.keys()
    if missing:
        raise DataError(f"metrics() in seeds.py does not measure {missing}, which GATES names")
    if mnist is not None:
        result["test accuracy on MNIST"] = model.evaluate(
            network, mnist.test_images, mnist.test_labels
        )
    return result


def start_worker():
    """Leave Ctrl-C to the parent, which ends its workers, and take one thread of the machine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def measure(task):
    """Return the task and its metrics; a task is (dataset, seed, has_mnist, data_dir)."""
    dataset, seed, has_mnist, data_dir = task
    digits = load_digits(dataset, data_dir)
    other = dataset == "rendered" and has_mnist
    return task, metrics(seed, digits, load_digits("mnist", data_dir) if other else None)


def readme_table(rows):
    """Return the lines of README's table from a list of metrics, seed 42 first, by dataset."""
    yield "| metric | gate | MNIST, mean ± sd | lowest | rendered, lowest |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, (_, bound, unit) in GATES.items():
        cells = []
        for dataset in ("mnist", "rendered"):
            values = [row[name] for row in rows.get(dataset, []) if name in row]
            if dataset == "mnist":
                cells.append(mean_and_sd(values) if values else "")
            cells.append(f"{min(values):.2f}%" if values else "")
        if any(cells):
            yield f"| {name} | {bound:g}{unit} | {' | '.join(cells)} |"


def mean_and_sd(values):
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}%"


def table(rows):
    """Return the lines of a Markdown table of all metrics, from a list of them, seed 42 first."""
    yield "| metric | mean | sd | lowest | 5th | seed 42 | gate | room | notices |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name in rows[0]:
        values = [row[name] for row in rows]
        mean, sd = statistics.mean(values), statistics.stdev(values)
        percentile = statistics.quantiles(values, n=20, method="inclusive")[0]
        cells = [f"{value:.2f}" for value in (mean, sd, min(values), percentile, values[0])]
        if name in GATES:
            drop = mean - GATES[name][1]
            cells += [f"{GATES[name][1]:g}", f"{drop / sd:.1f} sd", f"{drop:.2f}"]
        else:
            cells += [""] * 3
        yield f"| {name} | {' | '.join(cells)} |"


def parse_args(argv=None):
    parser = ArgumentParser(description="Measure the metrics of test_model.py over many seeds.")
    parser.add_argument(
        "--seeds", type=positive_int, default=20, metavar="N", help="seeds besides 42, from 0"
    )
    parser.add_argument(
        "--jobs", type=positive_int, default=os.cpu_count(), metavar="N", help="processes at once"
    )
    parser.add_argument(
        "--dataset",
        choices=[name for name in SOURCES if name != "auto"],
        help="only this one (default: mnist and rendered)",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="as for model.py (default: $MNIST_DATA_DIR or data)"
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Measure in processes of one thread each, and print the tables."""
    args = parse_args(argv)
    datasets = ["mnist", "rendered"] if args.dataset is None else [args.dataset]
    has_mnist = True
    try:
        load_digits("mnist", args.data_dir)  # Download it once, before the processes need it.
    except DataError:
        if "mnist" in datasets:
            raise
        has_mnist = False
    seeds = [42, *(seed for seed in range(args.seeds + 1) if seed != 42)][: args.seeds + 1]
    tasks = [(dataset, seed, has_mnist, args.data_dir) for dataset in datasets for seed in seeds]
    results = {}
    start = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(args.jobs, start_worker) as pool:
        for task, result in pool.imap_unordered(measure, tasks):
            results[task] = result
            left = (time.monotonic() - start) / len(results) * (len(tasks) - len(results)) / 60
            print(
                f"{task[0]}, seed {task[1]} ({len(results)}/{len(tasks)}, {left:.0f} min left): "
                + "; ".join(f"{name} {value:.2f}" for name, value in result.items()),
                flush=True,
            )
    minutes = (time.monotonic() - start) / 60
    print(f"\n{len(seeds)} seeds, {minutes:.0f} minutes, {args.jobs} processes at once", end=", ")
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n")
    rows = {d: [results[task] for task in tasks if task[0] == d] for d in datasets}
    print("\n".join(readme_table(rows)))
    for dataset in datasets:
        print(f"\n{dataset}, in percent\n")
        print("\n".join(table(rows[dataset])))


if __name__ == "__main__":
    sys.exit(exit_status(main))
