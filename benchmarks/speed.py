"""Time and memory of `python model.py` beside a textbook script, on an idle and on a busy machine.

`python benchmarks/speed.py | tee benchmarks/speed.jsonl` needs MNIST (unpacked), Linux or macOS,
and a machine that does nothing else. In each of three rounds both scripts run alone, and then
beside an endless loop, which keeps a core busy. Only ratios, taken round by round, are worth
quoting, since the machine's speed drifts. The record has a line of JSON for each process, and
`--table benchmarks/speed.jsonl` prints its table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SCRIPTS = {
    "ours": [FOLDER.parent / "model.py", "--dataset", "mnist"],
    "textbook": [FOLDER / "textbook.py"],
}
LOOPS = {"nothing": [], "a busy core": [[sys.executable, "-c", "while True: pass"]]}


def processor():
    """Return the processor's name and model number, which Linux keeps in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # macOS, Windows
        return platform.processor()
    values = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    return f"{values.get('model name', platform.machine())} model {values.get('model', 'unknown')}"


def run_script(name):
    """Run a script in a process of its own; return its seconds and its peak memory in MiB.

    This process must not import torch: Linux counts a parent's memory into the peak of its child.
    """
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *SCRIPTS[name]], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{name} has failed")
    seconds = time.perf_counter() - start
    return round(seconds, 2), round(usage.ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10))


def measure():
    """Time both scripts in turn, and print a line of the record for each process."""
    for number in (1, 2, 3):
        for beside, commands in LOOPS.items():
            for name in SCRIPTS:
                loops = [subprocess.Popen(command) for command in commands]
                try:
                    seconds, memory = run_script(name)
                finally:
                    for loop in loops:
                        loop.kill()
                line = {"round": number, "beside": beside, "script": name, "seconds": seconds}
                print(json.dumps(line | {"MiB": memory, "machine": processor()}), flush=True)


def table(lines):
    """Return a Markdown table: the ratios of ours to the textbook's, by rounds."""
    rows = ["| ours / textbook | median of rounds | lowest | highest |", "|---|---:|---:|---:|"]
    for title, beside, unit in (
        ("time of the whole process", "nothing", "seconds"),
        ("time beside a process that keeps a core busy", "a busy core", "seconds"),
        ("peak memory", "nothing", "MiB"),
    ):
        chosen = [line for line in lines if line["beside"] == beside]
        values = {(line["script"], line["round"]): line[unit] for line in chosen}
        rounds = {line["round"] for line in chosen}
        ratios = [values["ours", number] / values["textbook", number] for number in rounds]
        shown = (statistics.median(ratios), min(ratios), max(ratios))
        rows.append(f"| {title} | {' | '.join(f'{ratio:.2f}' for ratio in shown)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time model.py beside a textbook script.")
    parser.add_argument("--table", metavar="FILE", help="time nothing: the table of a record")
    record = parser.parse_args().table
    if record is None:
        measure()
    else:
        lines = Path(record).read_text(encoding="utf-8").splitlines()
        print(table([json.loads(line) for line in lines]))
