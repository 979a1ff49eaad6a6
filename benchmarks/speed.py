"""Time and memory of `python model.py` beside a textbook script, on an idle and on a busy machine.

`python benchmarks/speed.py` needs MNIST (unpacked), Linux or macOS, and a machine that does nothing
else. In each round whole processes take turns, first alone and then beside an endless loop, which
keeps a core busy; so the machine's drift affects all alike. Only ratios, taken round by round, are
worth quoting.
"""

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SCRIPTS = {
    "ours": ("model", "--dataset", "mnist"),  # The first: it says what is wrong with the data.
    "ours, augmented": ("model", "--dataset", "mnist", "--augment"),
    "textbook": ("textbook",),
}


def measured(script, *flags):
    """Run a script's main(), and finally print the seconds that its call of `train` took."""
    sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
    module = importlib.import_module(script)
    from support.command_line import run

    train, seconds = module.train, {}

    def timed(*args, **options):
        start = time.perf_counter()
        result = train(*args, **options)
        seconds["train"] = time.perf_counter() - start
        return result

    module.train = timed
    status = run(module.main, flags)
    print(json.dumps(seconds))
    return status


def run_script(name):
    """Run a script in a process of its own; return its seconds and its memory in MiB.

    This process must not import torch: Linux counts a parent's memory into the peak of its child.
    """
    command = [sys.executable, __file__, "--measured", *SCRIPTS[name]]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        lines = child.stdout.readlines()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if child.returncode:
        sys.exit(child.returncode)
    memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return json.loads(lines[-1]) | {"whole process": seconds, "peak memory": memory}


@contextlib.contextmanager
def busy_core():
    """Keep a core busy with an endless loop."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def median(results, quantity):
    return statistics.median(result[quantity] for result in results)


def ratio(above, below, quantity):
    """Return the median of the ratios of all rounds, and the lowest and highest, as text."""
    values = [a[quantity] / b[quantity] for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"  # noqa: RUF001


def main():
    parser = argparse.ArgumentParser(description="Time model.py beside a textbook script.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default: 3)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error("argument --rounds: must be at least 1")
    idle = {name: [] for name in SCRIPTS}
    busy = {name: [] for name in ("ours", "textbook")}
    for number in range(1, rounds + 1):
        for results, label in ((idle, "idle"), (busy, "busy")):
            with busy_core() if results is busy else contextlib.nullcontext():
                for name in results:
                    results[name].append(run_script(name))
                    whole = results[name][-1]["whole process"]
                    print(f"round {number}/{rounds}, {label}, {name}: {whole:.1f} s", flush=True)
    print(f"\n| median of {rounds} rounds | textbook | ours | ratio |")
    print("|---|---:|---:|---:|")
    for label, results, quantity, unit in (
        ("epoch and test", idle, "train", "s"),
        ("whole process", idle, "whole process", "s"),
        ("whole process, one core busy", busy, "whole process", "s"),
        ("peak memory", idle, "peak memory", "MiB"),
    ):
        theirs, ours = (median(results[name], quantity) for name in ("textbook", "ours"))
        share = ratio(results["ours"], results["textbook"], quantity)
        print(f"| {label} | {theirs:.1f} {unit} | {ours:.1f} {unit} | {share} |")
    augmented = ratio(idle["ours, augmented"], idle["ours"], "train")
    print(f"\nEpoch and test, augmented to not: {augmented}")
    print(f"Ours, busy to idle: {ratio(busy['ours'], idle['ours'], 'whole process')}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        sys.exit(measured(*sys.argv[2:]))
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
