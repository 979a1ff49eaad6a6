"""What an epoch costs beside the textbook loop and beside the plain network's bare arithmetic.

`python benchmarks/epoch.py` needs genuine MNIST. Each variant has a process of its own, as it would
for a user, so that none meets another's garbage or spare memory. They take turns in blocks of
batches, so that the machine's drift hits all alike; only the ratios, taken round by round, are
worth quoting. The blocks of a variant make three epochs, so that the mean holds what starting an
epoch costs.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

# The functions below import torch and the project. The process that measures the others does not:
# Linux counts the memory of a parent into the peak of its child.


def textbook_blocks(size):
    """a. DataLoader with one worker, activation before pooling, plain Adam, .item() every step."""
    import itertools

    import textbook
    import torch

    network = textbook.PlainCNN()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    epochs = (
        batch for _ in itertools.count() for batch in textbook.loader(textbook.DATA_DIR, True)
    )
    while True:
        yield textbook.train_batches(network, optimizer, itertools.islice(epochs, size))


def floor_blocks(size):
    """b. Forward and backward of the plain network on one fixed batch, and nothing else."""
    import textbook
    import torch
    import torch.nn.functional as F

    from dataset import load_digits

    images, labels, _ = load_digits(True, "mnist")
    network, x, y = textbook.PlainCNN(), images[:32] / 255, labels[:32]
    torch.empty(31 * 2**20, dtype=torch.uint8)  # as in train_epoch: arithmetic is compared here
    while True:
        for _ in range(size):
            F.cross_entropy(network(x), y).backward()
        yield


def our_blocks(size, transform=None):
    """c. `train_epoch`, on as many images as make one block."""
    import itertools

    import torch

    import model
    from dataset import load_digits

    images, labels, _ = load_digits(True, "mnist")
    network = model.LightweightCNN()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003, fused=True)
    for start in itertools.cycle(range(0, len(images) - 32 * size + 1, 32 * size)):
        block = slice(start, start + 32 * size)
        yield model.train_epoch(
            network, images[block], labels[block], optimizer, transform=transform
        )


def our_augmented_blocks(size):
    """d. The same with augmentation."""
    from augment import augment

    return our_blocks(size, augment)


def loading(size):
    """Both splits, checksums included."""
    from dataset import load_digits

    while True:
        yield [load_digits(train, "mnist") for train in (True, False)]


def evaluation(size):
    """10,000 images."""
    import model
    from dataset import load_digits

    images, labels, _ = load_digits(False, "mnist")
    network = model.LightweightCNN()
    while True:
        yield model.evaluate(network, images, labels)


LOOPS = {
    "a. textbook": textbook_blocks,
    "b. floor": floor_blocks,
    "c. ours": our_blocks,
    "d. ours, augmented": our_augmented_blocks,
}
STAGES = {"loading": loading, "evaluation": evaluation}


def serve(variant, size):
    """Do one block of work for each line on stdin and print how long it took, in seconds."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # without DataLoader's complaints

    import torch

    from dataset import DataError, load_digits

    try:
        load_digits(True, "mnist")
    except DataError as error:
        print(f"epoch.py: error: {error}", file=sys.stderr)
        return 1
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    blocks = (LOOPS | STAGES)[variant](size)
    for _ in sys.stdin:
        start = time.perf_counter()
        next(blocks)
        print(time.perf_counter() - start, flush=True)
    return 0


class Server:
    """A process that serves one variant."""

    def __init__(self, variant, size):
        command = [sys.executable, __file__, "--variant", variant, "--block", str(size)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.greeting = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:  # It has ended, and has said why.
            sys.exit(self.process.wait() or 1)
        return line.strip()

    def seconds(self):
        """The time that one block takes."""
        print(file=self.process.stdin, flush=True)
        return float(self.read())

    def stop(self):
        self.process.communicate()


def process(*command):
    """Run a Python script and return its wall time in seconds and peak memory in MiB."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    if not hasattr(os, "wait4"):  # Windows does not tell.
        child.wait()
        return time.perf_counter() - start, float("nan")
    _, child.returncode, usage = os.wait4(child.pid, 0)
    if child.returncode:
        sys.exit(f"epoch.py: error: {command} failed")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return time.perf_counter() - start, usage.ru_maxrss / unit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=15, metavar="N", help="blocks per variant")
    add("--block", type=int, default=375, metavar="N", help="batches per block")
    add("--processes", type=int, default=3, metavar="N", help="whole runs of each")
    add("--data-dir", type=Path, metavar="DIR", help="MNIST is here (default: as for model.py)")
    add("--variant", choices=LOOPS | STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.rounds, args.block, args.processes) < 1:
        parser.error("counts must be at least 1")
    if args.block > 1875:
        parser.error("a block cannot be longer than an epoch, 1875 batches")
    if args.data_dir:
        os.environ["MNIST_DATA_DIR"] = str(args.data_dir)  # for all the processes
    if args.variant:
        return serve(args.variant, args.block)

    servers = {name: Server(name, args.block) for name in LOOPS}
    times = {name: [] for name in servers}
    for number in range(args.rounds + 1):
        for name, server in servers.items():
            times[name].append(server.seconds() / args.block)
        print(f"round {number}/{args.rounds}" + " (warm-up)" * (number == 0), flush=True)
    times = {name: values[1:] for name, values in times.items()}
    for server in servers.values():
        server.stop()

    scripts = {
        "textbook.py": [HERE / "textbook.py"],
        "model.py": [HERE.parent / "model.py", "--dataset", "mnist"],
    }
    runs = {name: [] for name in scripts}
    for number in range(1, args.processes + 1):
        for name, command in scripts.items():
            runs[name].append(process(*command))
        print(f"processes {number}/{args.processes}", flush=True)
    importing = min(
        process("-c", f"import sys; sys.path[0] = {str(HERE.parent)!r}; import model")[0]
        for _ in range(3)
    )
    stages = {}
    for name in STAGES:
        server = Server(name, args.block)
        stages[name] = min(server.seconds() for _ in range(5))
        server.stop()

    print(f"\n{server.greeting}")
    print("\n| one epoch, 1,875 batches | mean | median | minimum |")
    print("| --- | ---: | ---: | ---: |")
    for name, values in times.items():
        figures = [f(values) for f in (statistics.mean, statistics.median, min)]
        print(f"| {name} |", *(f"{1875 * value:.1f} s |" for value in figures))
    print("\n| ratio | of means | median | minimum | maximum |")
    print("| --- | ---: | ---: | ---: | ---: |")
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
        figures = sum(above) / sum(below), statistics.median(ratios), min(ratios), max(ratios)
        print(f"| {name} |", *(f"{value:.2f} |" for value in figures))
    print("\n| `python model.py` | |")
    print("| --- | ---: |")
    print(f"| whole process | {statistics.median(wall['model.py']):.1f} s |")
    print(f"| of which imports | {importing:.2f} s |")
    print(f"| of which loading both splits, checksums included | {stages['loading']:.2f} s |")
    print(f"| of which evaluating 10,000 images | {stages['evaluation']:.2f} s |")
    print(f"| peak memory | {max(memory['model.py']):.0f} MiB |")
    print(f"| peak memory of the textbook script | {max(memory['textbook.py']):.0f} MiB |")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    sys.exit(main())
