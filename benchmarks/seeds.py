"""How much room the metrics of test_model.py have above their gates, over many seeds.

`python benchmarks/seeds.py | tee seeds.txt` trains with up to 100 seeds what the gates train, and a
few networks for comparison. It prints one line of JSON for each finished seed, and at the end the
table of README and one of all metrics. `--tables seeds.txt more.txt` prints the tables of earlier
runs, also of those that were cut short, and joins those of several machines.

A mean and a standard deviation say little about the seeds that do worst. So a gate is judged by its
*room*: the distance from the worst seed to the gate, divided by the distance from the tenth
percentile to the worst seed. Every gate should have a room of at least 1.
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
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import model
from augment import augment
from support.command_line import ArgumentParser, positive_int, run
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


# --- What is measured -------------------------------------------------------------------------


def trained(seed, digits, build=model.LightweightCNN, **options):
    """Return a trained network and what `train` returns of its first epoch."""
    torch.manual_seed(seed)
    network = build()
    return network, model.train(network, digits, **options)[0]


def default_run(seed, digits):
    """The metrics of `python model.py`."""
    network, epoch = trained(seed, digits)
    metrics = {
        "first epoch accuracy": epoch.progress[-1].accuracy,
        "test accuracy": epoch.test_accuracy,
    }
    if digits.name == "rendered digits":
        with contextlib.suppress(DataError):
            mnist = load_digits("mnist")
            accuracy = model.evaluate(network, mnist.test_images, mnist.test_labels)
            metrics["test accuracy on MNIST"] = accuracy
    return metrics


def other_gates(seed, digits):
    """The metrics of `python model.py --augment`, and of the networks trained on thirds."""
    _, epoch = trained(seed, digits, transform=augment)
    plain, augmented = train_thirds(digits, seed)
    logits = [model.predict(network, digits.test_images) for network in plain]
    images = digits.test_images / 255
    return {
        "first epoch accuracy, augmented": epoch.progress[-1].accuracy,
        "test accuracy, mean of three": mean_accuracy(plain, digits.test_images, digits),
        "lowest digit": recalls(logits, digits.test_labels).min().item(),
        "accuracy, noise 0.1": mean_accuracy(plain, noisy(images, 0.1), digits),
        "accuracy, noise 0.2": mean_accuracy(plain, noisy(images, 0.2), digits),
        "errors saved by augmentation": errors_saved(plain, augmented, digits),
    }


def softmax_regression():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def mlp():
    """784 * 14 + 14 + 14 * 10 + 10 = 11,140 parameters, about as many as LightweightCNN."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 14), nn.ReLU(), nn.Linear(14, 10))


def comparison(seed, digits):
    """The linear schedule, without and with `--augment`, and two simpler networks."""
    linear, epoch = trained(seed, digits, lr_schedule="linear")
    both, epoch_of_both = trained(seed, digits, lr_schedule="linear", transform=augment)
    images = moved(digits.test_images / 255)
    return {
        "test accuracy, linear": epoch.test_accuracy,
        "test accuracy, linear, augmented": epoch_of_both.test_accuracy,
        "moved digits, linear": mean_accuracy([linear], images, digits),
        "moved digits, linear, augmented": mean_accuracy([both], images, digits),
        "softmax regression": trained(seed, digits, softmax_regression)[1].test_accuracy,
        "MLP of 11,140 parameters": trained(seed, digits, mlp)[1].test_accuracy,
    }


# The parts of the study, and how many seeds each has at most: on MNIST, and on any other digits.
PARTS = {
    default_run: (100, 21),
    other_gates: (40, 21),
    comparison: (10, 0),
}


# --- Processes --------------------------------------------------------------------------------


def start_worker():
    """Leave Ctrl-C to the parent, take one thread of the machine, and end when the parent ends."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(1)


def measure(dataset, data_dir, part, seed):
    """Return one line of the study as a dictionary."""
    digits = load_digits(dataset, data_dir)
    with contextlib.redirect_stdout(io.StringIO()):  # the logs of training
        metrics = part(seed, digits)
    machine = f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    line = {"dataset": digits.name, "seed": seed, "part": part.__name__, "machine": machine}
    return line | {"metrics": metrics}


def measure_all(datasets, data_dir, most, jobs):
    """Measure in processes of one thread each; print and return each line as it is done."""
    tasks = []
    for dataset in datasets:
        load_digits(dataset, data_dir)  # Report bad data, or download it, before work starts.
        for part, (on_mnist, otherwise) in PARTS.items():
            count = min(most, on_mnist if dataset == "mnist" else otherwise)
            seeds = [42, *(seed for seed in range(count) if seed != 42)][:count]
            tasks += [(dataset, data_dir, part, seed) for seed in seeds]
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=start_worker)
    lines, start = [], time.monotonic()
    try:
        for future in as_completed([pool.submit(measure, *task) for task in tasks]):
            lines.append(future.result())
            print(json.dumps(lines[-1]), flush=True)
            left = (time.monotonic() - start) / len(lines) * (len(tasks) - len(lines)) / 60
            print(f"{len(lines)}/{len(tasks)}, {left:.0f} min left", file=sys.stderr)
    except BrokenProcessPool as error:
        raise DataError("a process of the study was killed, perhaps for want of memory") from error
    finally:
        for process in multiprocessing.active_children():
            process.kill()
        pool.shutdown(cancel_futures=True)
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
    """Return mean, sd, worst, tenth percentile, gate and room as text; "" where there is none."""
    sign, bound, unit = GATES.get(name, (">", None, "%"))
    ordered = sorted(values, reverse=sign == "<")  # the worst first
    tenth = ordered[len(ordered) // 10]
    spread = abs(tenth - ordered[0])
    sd = statistics.stdev(values) if len(values) > 1 else 0

    def shown(value):
        return f"{value:.2f}{unit}" if unit == "%" else f"{value:.4g}{unit}"

    result = {"mean": shown(statistics.mean(values)), "sd": shown(sd), "worst": shown(ordered[0])}
    result |= {"tenth": shown(tenth), "gate": "", "room": ""}
    if bound is not None:
        result["gate"] = f"{bound:g}{unit}"
        room = ordered[0] - bound if sign == ">" else bound - ordered[0]
        result["room"] = f"{room / spread:.1f}" if spread else shown(room)
    return result


def readme_table(values):
    """Yield the lines of README's table; `values` maps the dataset to metrics to their values."""
    yield "| metric | gate | MNIST, mean ± sd | worst run | rendered digits, worst run |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name in GATES:
        cells, gate = [], ""
        for dataset in ("MNIST", next((other for other in values if other != "MNIST"), "")):
            measured = values.get(dataset, {}).get(name)
            row = summary(name, measured) if measured else None
            gate = row["gate"] if row else gate
            if dataset == "MNIST":
                cells.append(f"{row['mean'].removesuffix('%')} ± {row['sd']}" if row else "")
            cells.append(row["worst"] if row else "")
        if gate:
            yield f"| {name} | {gate} | {' | '.join(cells)} |"


def table(metrics):
    """Yield the lines of a Markdown table of all metrics of one dataset."""
    yield "| metric | seeds | mean | sd | worst | 10th percentile | gate | room |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, values in metrics.items():
        yield f"| {name} | {len(values)} | {' | '.join(summary(name, values).values())} |"


def parse_args(argv=None):
    parser = ArgumentParser(description="Measure the metrics of test_model.py over many seeds.")
    parser.add_argument(
        "--seeds", type=positive_int, default=100, metavar="N", help="at most so many of each part"
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
    parser.add_argument(
        "--tables", nargs="+", metavar="FILE", help="train nothing: tables of what was printed"
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Measure, or read what earlier runs measured, and print the tables."""
    args = parse_args(argv)
    if args.tables:
        lines = read_lines(args.tables)
    else:
        datasets = ["mnist", "rendered"] if args.dataset is None else [args.dataset]
        lines = measure_all(datasets, args.data_dir, args.seeds, args.jobs)
    values = {}
    for line in sorted(lines, key=lambda line: line["dataset"]):
        for name, value in line["metrics"].items():
            values.setdefault(line["dataset"], {}).setdefault(name, []).append(value)
    print(f"\n{'; '.join(sorted({line['machine'] for line in lines}))}\n")
    print("\n".join(readme_table(values)))
    for dataset, metrics in values.items():
        print(f"\n{dataset}\n")
        print("\n".join(table(metrics)))


if __name__ == "__main__":
    sys.exit(run(main))
