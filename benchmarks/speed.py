"""Time and memory of `python model.py` beside a textbook script, on an idle and on a busy machine.

`python benchmarks/speed.py | tee benchmarks/speed.jsonl` needs MNIST (unpacked), Linux or macOS,
and a machine that does nothing else. In each round whole processes take turns, first alone and then
beside an endless loop, which keeps a core busy; so the machine's drift affects all alike. Only
ratios, taken round by round, are worth quoting. The record has a line of JSON for each process, and
`--table benchmarks/speed.jsonl` prints its table.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import processor

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


def measure(rounds):
    """Time both scripts in turn; yield a line of the record for each process."""
    for number in range(1, rounds + 1):
        for beside in ("nothing", "a busy core"):
            for name in COMMANDS:
                with busy_core() if beside == "a busy core" else contextlib.nullcontext():
                    seconds, memory = run_script(name)
                line = {"round": number, "beside": beside, "script": name}
                line |= {"seconds": round(seconds, 2), "MiB": round(memory)}
                yield line | {"machine": processor()}


def table(lines):
    """Yield the lines of a Markdown table: the ratios of ours to the textbook's, by rounds."""
    yield "| ours / textbook | median of rounds | lowest | highest |"
    yield "|---|---:|---:|---:|"
    for title, beside, unit in (
        ("time of the whole process", "nothing", "seconds"),
        ("time beside a process that keeps a core busy", "a busy core", "seconds"),
        ("peak memory", "nothing", "MiB"),
    ):
        chosen = [line for line in lines if line["beside"] == beside]
        values = {(line["script"], line["round"]): line[unit] for line in chosen}
        rounds = sorted({line["round"] for line in chosen})
        ratios = [values["ours", number] / values["textbook", number] for number in rounds]
        shown = (statistics.median(ratios), min(ratios), max(ratios))
        yield f"| {title} | {' | '.join(f'{ratio:.2f}' for ratio in shown)} |"


def main():
    parser = argparse.ArgumentParser(description="Time model.py beside a textbook script.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default: 3)")
    parser.add_argument("--table", metavar="FILE", help="time nothing: the table of a record")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("argument --rounds: must be at least 1")
    if args.table:
        record = Path(args.table).read_text(encoding="utf-8")
        print("\n".join(table([json.loads(line) for line in record.splitlines()])))
        return
    for line in measure(args.rounds):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
