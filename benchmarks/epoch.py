"""What an epoch costs beside the textbook loop and beside the plain network's bare arithmetic.

`python benchmarks/epoch.py` needs genuine MNIST. All variants take turns in blocks of batches, so
that the machine's drift hits them alike; only the ratios, taken round by round, are worth quoting.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import textbook

import model
from augment import augment
from dataset import DataError, default_data_dir, load_digits

HERE = Path(__file__).resolve().parent


def textbook_blocks(data_dir, size):
    """a. DataLoader with one worker, activation before pooling, plain Adam, .item() every step."""
    network = textbook.PlainCNN()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    epochs = (batch for _ in itertools.count() for batch in textbook.loader(data_dir, True))
    while True:
        yield textbook.train_batches(network, optimizer, itertools.islice(epochs, size))


def floor_blocks(images, labels, size):
    """b. Forward and backward of the plain network on one fixed batch, and nothing else."""
    network = textbook.PlainCNN()
    x, y = model.to_float(images[:32]), labels[:32]
    while True:
        for _ in range(size):
            F.cross_entropy(network(x), y).backward()
        yield


def our_blocks(images, labels, size, transform=None):
    """c. and d. `train_epoch`, on as many images as make one block."""
    network = model.LightweightCNN()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003, fused=True)
    for start in itertools.cycle(range(0, len(images) - 32 * size + 1, 32 * size)):
        block = slice(start, start + 32 * size)
        yield model.train_epoch(
            network, images[block], labels[block], optimizer, transform=transform
        )


def process(*command):
    """Run a Python script and return its wall time in seconds and peak memory in MiB."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *command], cwd=HERE.parent, stdout=subprocess.DEVNULL)
    if not hasattr(os, "wait4"):  # Windows does not tell.
        child.wait()
        return time.perf_counter() - start, float("nan")
    _, child.returncode, usage = os.wait4(child.pid, 0)
    if child.returncode:
        sys.exit(f"epoch.py: error: {command} failed")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return time.perf_counter() - start, usage.ru_maxrss / unit


def seconds(call, repeat=5):
    """Return the fastest of some calls, in seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=model.positive_int, default=15, metavar="N", help="blocks per variant")
    add("--block", type=model.positive_int, default=125, metavar="N", help="batches per block")
    add("--processes", type=model.positive_int, default=3, metavar="N", help="whole runs of each")
    add("--data-dir", type=Path, default=default_data_dir(), metavar="DIR", help="MNIST is here")
    args = parser.parse_args()
    args.data_dir = args.data_dir.resolve()
    try:
        images, labels, _ = load_digits(True, "mnist", args.data_dir)
        test_images, test_labels, _ = load_digits(False, "mnist", args.data_dir)
    except DataError as error:
        print(f"epoch.py: error: {error}", file=sys.stderr)
        return 1

    variants = {
        "a. textbook": textbook_blocks(args.data_dir, args.block),
        "b. floor": floor_blocks(images, labels, args.block),
        "c. ours": our_blocks(images, labels, args.block),
        "d. ours, augmented": our_blocks(images, labels, args.block, augment),
    }
    times = {name: [] for name in variants}
    for number in range(args.rounds + 1):
        for name, blocks in variants.items():
            start = time.perf_counter()
            next(blocks)
            times[name].append((time.perf_counter() - start) / args.block)
        print(f"round {number}/{args.rounds}" + " (warm-up)" * (number == 0), flush=True)
    times = {name: values[1:] for name, values in times.items()}
    variants["a. textbook"].close()

    scripts = {
        "textbook.py": (HERE / "textbook.py", args.data_dir),
        "model.py": ("model.py", "--dataset", "mnist", "--data-dir", args.data_dir),
    }
    runs = {name: [] for name in scripts}
    for number in range(1, args.processes + 1):
        for name, command in scripts.items():
            runs[name].append(process(*map(str, command)))
        print(f"processes {number}/{args.processes}", flush=True)

    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads")
    print("\n| one epoch, 1,875 batches | median | minimum |")
    print("| --- | ---: | ---: |")
    for name, values in times.items():
        print(f"| {name} | {1875 * statistics.median(values):.1f} s | {1875 * min(values):.1f} s |")
    print("\n| ratio | median | minimum | maximum |")
    print("| --- | ---: | ---: | ---: |")
    a, b, c, d = times.values()
    wall, memory = (
        {name: [run[i] for run in values] for name, values in runs.items()} for i in (0, 1)
    )
    for name, above, below in (
        ("c/a, ours to textbook", c, a),
        ("c/b, ours to the floor", c, b),
        ("d/c, augmented to not", d, c),
        ("whole process, ours to textbook", wall["model.py"], wall["textbook.py"]),
        ("its peak memory", memory["model.py"], memory["textbook.py"]),
    ):
        ratios = [x / y for x, y in zip(above, below, strict=True)]
        middle = statistics.median(ratios)
        print(f"| {name} | {middle:.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")
    print("\n| `python model.py` | |")
    print("| --- | ---: |")
    network = model.LightweightCNN()
    imports = seconds(
        lambda: process("-c", f"import sys; sys.path[0] = {str(HERE.parent)!r}; import model"), 3
    )
    load = seconds(lambda: [load_digits(train, "mnist", args.data_dir) for train in (True, False)])
    evaluation = seconds(lambda: model.evaluate(network, test_images, test_labels))
    print(f"| whole process | {statistics.median(wall['model.py']):.1f} s |")
    print(f"| of which imports | {imports:.2f} s |")
    print(f"| of which loading both splits, checksums included | {load:.2f} s |")
    print(f"| of which evaluating 10,000 images | {evaluation:.2f} s |")
    print(f"| peak memory | {max(memory['model.py']):.0f} MiB |")
    print(f"| peak memory of the textbook script | {max(memory['textbook.py']):.0f} MiB |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
