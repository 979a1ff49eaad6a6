"""How much room the metrics of test_model.py have above their gates, over many seeds.

`python benchmarks/seeds.py | tee seeds.txt` trains with up to 200 seeds what the gates train, and a
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
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import model
from augment import augment
from support.command_line import ArgumentParser, positive_int, run
from support.dataset import SOURCES, load_digits
from support.digits import CLASSES
from test_model import GATES, errors_saved, mean_accuracy, moved, noisy, recalls, train_thirds

load_digits = functools.cache(load_digits)  # once in each process


# --- What is measured -------------------------------------------------------------------------


def trained(seed, digits, build=model.LightweightCNN, **options):
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
    network, epoch = trained(seed, digits)
    logits = model.predict(network, digits.test_images)
    return {
        "first epoch accuracy": epoch.progress[-1].accuracy,
        "test accuracy": epoch.test_accuracy,
        "expected calibration error": calibration_error(logits, digits.test_labels),
        "moved digits": mean_accuracy([network], moved(digits.test_images / 255), digits),
    }


def other_gates(seed, digits):
    """The metrics of `python model.py --augment`, and of the networks trained on thirds."""
    network, epoch = trained(seed, digits, transform=augment)
    plain, augmented = train_thirds(digits, seed)
    logits = [model.predict(network, digits.test_images) for network in plain]
    images = digits.test_images / 255
    return {
        "moved digits, augmented": mean_accuracy([network], moved(images), digits),
        "first epoch accuracy, augmented": epoch.progress[-1].accuracy,
        "test accuracy, mean of three": mean_accuracy(plain, digits.test_images, digits),
        "lowest digit": recalls(logits, digits.test_labels).min().item(),
        "accuracy, noise 0.1": mean_accuracy(plain, noisy(images, 0.1), digits),
        "accuracy, noise 0.2": mean_accuracy(plain, noisy(images, 0.2), digits),
        "errors saved by augmentation": errors_saved(plain, augmented, digits),
    }


def softmax_regression():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, CLASSES))


def mlp():
    """784 * 14 + 14 + 14 * 10 + 10 = 11,140 parameters, about as many as LightweightCNN."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 14), nn.ReLU(), nn.Linear(14, CLASSES))


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
PARTS = {default_run: (200, 20), other_gates: (40, 20), comparison: (20, 0)}


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
    machine = f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    line = {"dataset": digits.name, "seed": seed, "part": part.__name__, "machine": machine}
    return line | {"metrics": metrics}


def measure_all(datasets, data_dir, most, jobs):
    """Measure in processes of one thread each; print and return each line as it is done."""
    tasks, lines = [], []
    for dataset in datasets:
        load_digits(dataset, data_dir)  # Report bad data, or download it, before work starts.
        for part, (on_mnist, otherwise) in PARTS.items():
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
    """Return mean, sd, lowest, highest, gate, room as text; "" where there is no gate."""
    sign, bound, unit = GATES.get(name, (">", None, "%"))
    ordered = sorted(values, reverse=sign == "<")  # the worst first
    sd = statistics.stdev(values) if len(values) > 1 else 0
    form = ".2f" if unit == "%" else ".3g"
    row = {"mean": f"{statistics.mean(values):{form}}", "sd": f"{sd:{form}}{unit}"}
    row |= {"lowest": f"{min(values):{form}}{unit}", "highest": f"{max(values):{form}}{unit}"}
    row |= {"gate": "", "room": ""}
    if bound is not None:
        row["gate"] = f"{sign} {bound:g}{unit}"
        spread = abs(ordered[len(ordered) // 10] - ordered[0])
        room = ordered[0] - bound if sign == ">" else bound - ordered[0]
        row["room"] = f"{room / spread:.1f}" if spread else f"{room:{form}}{unit}"
    return row


def readme_table(values):
    """Yield the lines of README's table; `values` maps the dataset to metrics to their values."""
    yield "| metric | gate | MNIST, mean ± sd | worst run | rendered digits, worst run |"
    yield "|---|---:|---:|---:|---:|"
    rendered = next((dataset for dataset in values if dataset != "MNIST"), "")
    for name in GATES:
        first, second = (values.get(dataset, {}).get(name) for dataset in ("MNIST", rendered))
        if first:
            row = summary(name, first)
            mean = f"{row['mean']} ± {row['sd']}"
            worst = "lowest" if GATES[name][0] == ">" else "highest"
            other = summary(name, second)[worst] if second else ""
            yield f"| {name} | {row['gate']} | {mean} | {row[worst]} | {other} |"


def table(metrics):
    """Yield the lines of a Markdown table of all metrics of one dataset."""
    yield "| metric | runs | mean | sd | lowest | highest | gate | room |"
    yield f"|---{'|---:' * 7}|"
    for name, values in metrics.items():
        yield f"| {name} | {len(values)} | {' | '.join(summary(name, values).values())} |"


def main(argv=None):
    """Measure, or read what earlier runs measured, and print the tables."""
    parser = ArgumentParser(description="Measure the metrics of test_model.py over many seeds.")
    add = parser.add_argument
    add("--seeds", type=positive_int, default=200, metavar="N", help="at most so many of each part")
    add("--jobs", type=positive_int, default=os.cpu_count(), metavar="N", help="processes at once")
    names = [name for name in SOURCES if name != "auto"]
    add("--dataset", choices=names, help="only this one (default: mnist and rendered)")
    add("--data-dir", metavar="DIR", help="as for model.py (default: $MNIST_DATA_DIR or data)")
    add("--tables", nargs="+", metavar="FILE", help="train nothing: tables of what was printed")
    args = parser.parse_args(argv)
    datasets = [args.dataset] if args.dataset else ["mnist", "rendered"]
    if args.tables:
        lines = read_lines(args.tables)
    else:
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
