"""Time and memory of `python model.py` beside a textbook script, on an idle and on a busy machine.

`python benchmarks/speed.py` needs MNIST (unpacked), Linux or macOS, and a machine that does nothing
else. In each round whole processes take turns, first alone and then beside an endless loop, which
keeps a core busy; so the machine's drift affects all alike. Only ratios, taken round by round, are
worth quoting.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
COMMANDS = {
    # The first, since its message says what is wrong with MNIST.
    "ours": [FOLDER.parent / "model.py", "--dataset", "mnist"],
    "textbook": [FOLDER / "textbook.py"],
}


def run_script(name):
    """Run a script in a process of its own; return its seconds and its peak memory in MiB.

    This process must not import torch: Linux counts a parent's memory into the peak of its child.
    """
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *COMMANDS[name]], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(child.returncode)
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@contextlib.contextmanager
def busy_core():
    """Keep a core busy with an endless loop."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def row(title, theirs, ours, unit):
    """Return a row: both medians, and the median, lowest and highest ratio of all rounds."""
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    medians = [f"{statistics.median(values):.1f} {unit}" for values in (theirs, ours)]
    spread = f"{min(ratios):.2f}–{max(ratios):.2f}"  # noqa: RUF001
    return f"| {title} | {' | '.join(medians)} | {statistics.median(ratios):.2f} ({spread}) |"


def main():
    parser = argparse.ArgumentParser(description="Time model.py beside a textbook script.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default: 3)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error("argument --rounds: must be at least 1")
    seconds = {(label, name): [] for label in ("idle", "busy") for name in COMMANDS}
    memory = {name: [] for name in COMMANDS}
    for number in range(1, rounds + 1):
        for label, name in seconds:
            with busy_core() if label == "busy" else contextlib.nullcontext():
                taken, peak = run_script(name)
            seconds[label, name].append(taken)
            memory[name].append(peak)
            print(f"round {number}/{rounds}, {label}, {name}: {taken:.1f} s", flush=True)
    print(f"\n| median of {rounds} rounds | textbook | ours | ratio (lowest–highest) |")  # noqa: RUF001
    print("|---|---:|---:|---:|")
    for label, title in (("idle", "whole process"), ("busy", "whole process, one core busy")):
        print(row(title, seconds[label, "textbook"], seconds[label, "ours"], "s"))
    print(row("peak memory", memory["textbook"], memory["ours"], "MiB"))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
