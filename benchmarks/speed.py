"""Time and memory of `python model.py` beside a textbook script, on an idle and on a busy machine.

`python benchmarks/speed.py` needs genuine MNIST, Linux or macOS, and a machine that does nothing
else. Whole processes take turns, so that the machine's drift hits all alike; only the ratios, taken
round by round, are worth quoting. Then the same beside one endless loop, which keeps a core busy.
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

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "ours": ("model", "--dataset", "mnist"),  # The first: it says what is wrong with the data.
    "ours, augmented": ("model", "--dataset", "mnist", "--augment"),
    "textbook": ("textbook",),
}
PHASES = {"load_digits": "loading", "train_epoch": "epoch", "evaluate": "evaluation"}


def measured(script, *flags):
    """Run a script's main(), and print last how many seconds its imports and phases took."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    start = time.perf_counter()
    module = importlib.import_module(script)
    seconds = {"imports": time.perf_counter() - start}

    def timed(function, phase):
        def call(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[phase] = seconds.get(phase, 0) + time.perf_counter() - start
            return result

        return call

    for name, phase in PHASES.items():
        if hasattr(module, name):
            setattr(module, name, timed(getattr(module, name), phase))
    from command_line import exit_status  # Imports torch, which counts as the script's.

    status = exit_status(module.main, flags)
    print(json.dumps(seconds))
    return status


def run(name):
    """Run a script in a process of its own; return its seconds by phase and its memory in MiB.

    This process must not import torch: Linux counts a parent's memory into the peak of its child.
    """
    command = [sys.executable, __file__, "--measured", *SCRIPTS[name]]
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = child.stdout.readlines()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return json.loads(lines[-1]) | {"whole process": seconds, "peak memory": memory}


@contextlib.contextmanager
def busy_core():
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def rounds(count, names, label):
    """Run the scripts in turn; return a list of results for each."""
    results = {name: [] for name in names}
    for number in range(1, count + 1):
        for name in names:
            results[name].append(run(name))
            whole = results[name][-1]["whole process"]
            print(f"{label}, round {number}/{count}, {name}: {whole:.1f} s", flush=True)
    return results


def ratio_row(title, above, below, figure):
    ratios = [a[figure] / b[figure] for a, b in zip(above, below, strict=True)]
    values = statistics.median(ratios), min(ratios), max(ratios)
    return f"| {title} | " + " | ".join(f"{value:.2f}" for value in values) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="on the idle machine")
    parser.add_argument("--busy-rounds", type=int, default=2, metavar="N", help="on the busy one")
    args = parser.parse_args()
    if min(args.rounds, args.busy_rounds) < 1:
        parser.error("at least 1 round")
    idle = rounds(args.rounds, SCRIPTS, "idle")
    with busy_core():
        busy = rounds(args.busy_rounds, ["ours", "textbook"], "busy")
    ours, augmented, textbook = idle.values()

    print("\n| median | textbook | ours |\n| --- | ---: | ---: |")
    for results, machine in ((idle, "idle"), (busy, "one core busy")):
        for figure in ("epoch", "whole process"):
            shown = [statistics.median(r[figure] for r in results[n]) for n in ("textbook", "ours")]
            print(f"| {figure}, {machine} | {shown[0]:.1f} s | {shown[1]:.1f} s |")
    shown = [statistics.median(r["peak memory"] for r in results) for results in (textbook, ours)]
    print(f"| peak memory | {shown[0]:.0f} MiB | {shown[1]:.0f} MiB |")
    for figure in ("imports", "loading", "evaluation"):
        print(f"| {figure} | | {statistics.median(r[figure] for r in ours):.2f} s |")
    print("\n| ratio | median | minimum | maximum |\n| --- | ---: | ---: | ---: |")
    print(ratio_row("epoch, ours to textbook", ours, textbook, "epoch"))
    print(ratio_row("whole process, ours to textbook", ours, textbook, "whole process"))
    title = "whole process beside a busy core, ours to textbook"
    print(ratio_row(title, busy["ours"], busy["textbook"], "whole process"))
    print(ratio_row("peak memory, ours to textbook", ours, textbook, "peak memory"))
    print(ratio_row("epoch, augmented to not", augmented, ours, "epoch"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        sys.exit(measured(*sys.argv[2:]))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
