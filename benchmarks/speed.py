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

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "ours": ("model", "--dataset", "mnist"),  # The first: it says what is wrong with the data.
    "ours, augmented": ("model", "--dataset", "mnist", "--augment"),
    "textbook": ("textbook",),
}
PHASES = {"load_digits": "loading", "train": "epoch", "evaluate": "evaluation"}


def measured(script, *flags):
    """Run a script's main(), and finally print the seconds that its imports and phases took."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    start = time.perf_counter()
    module = importlib.import_module(script)
    seconds = {"imports": time.perf_counter() - start}

    def timed(function, phase):
        def call(*args, **kwargs):
            start, before = time.perf_counter(), sum(seconds.values())
            result = function(*args, **kwargs)
            inner = sum(seconds.values()) - before  # of phases inside this one
            seconds[phase] = seconds.get(phase, 0) + time.perf_counter() - start - inner
            return result

        return call

    for name, phase in PHASES.items():
        if hasattr(module, name):
            setattr(module, name, timed(getattr(module, name), phase))
    from support.command_line import run  # It imports torch, which the script pays for.

    status = run(module.main, flags)
    print(json.dumps(seconds))
    return status


def run(name):
    """Run a script in a process of its own; return its seconds by phase and its memory in MiB.

    This process must not import torch: Linux counts a parent's memory into the peak of its child.
    """
    command = [sys.executable, __file__, "--measured", *SCRIPTS[name]]
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        lines = child.stdout.readlines()
        _, status, usage = os.wait4(child.pid, 0)
    except KeyboardInterrupt:
        child.kill()
        raise
    seconds = time.perf_counter() - start
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return json.loads(lines[-1]) | {"whole process": seconds, "peak memory": memory}


ENDLESS_LOOP = """if True:
    import os, sys, threading
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True: pass
"""


@contextlib.contextmanager
def busy_core():
    """Keep a core busy with an endless loop, which also ends when this process is killed."""
    loop = subprocess.Popen([sys.executable, "-c", ENDLESS_LOOP], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def ratios(above, below, quantity):
    """Return the median of the ratios of all rounds, and the lowest and highest, as text."""
    values = [a[quantity] / b[quantity] for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"  # noqa: RUF001


def median(results, quantity):
    return statistics.median(result[quantity] for result in results)


def main():
    parser = argparse.ArgumentParser(description="Time model.py beside a textbook script.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default: 3)")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("argument --rounds: must be at least 1")
    sys.stdout.reconfigure(errors="replace")  # A terminal may lack the dash of a range.
    idle = {name: [] for name in SCRIPTS}
    busy = {name: [] for name in ("ours", "textbook")}
    for number in range(1, args.rounds + 1):
        for results, label in ((idle, "idle"), (busy, "busy")):
            with busy_core() if results is busy else contextlib.nullcontext():
                for name in results:
                    results[name].append(run(name))
                    whole = results[name][-1]["whole process"]
                    print(f"round {number}/{args.rounds}, {label}, {name}: {whole:.1f} s")
                    sys.stdout.flush()
    print(f"\n| median of {args.rounds} rounds | textbook | ours | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for label, results, quantity, unit in (
        ("epoch", idle, "epoch", "s"),
        ("whole process", idle, "whole process", "s"),
        ("epoch, one core busy", busy, "epoch", "s"),
        ("whole process, one core busy", busy, "whole process", "s"),
        ("peak memory", idle, "peak memory", "MiB"),
    ):
        digits = 1 if unit == "s" else 0
        theirs, own = (f"{median(results[n], quantity):.{digits}f}" for n in ("textbook", "ours"))
        ratio = ratios(results["ours"], results["textbook"], quantity)
        print(f"| {label} | {theirs} {unit} | {own} {unit} | {ratio} |")
    ours = idle["ours"]
    parts = [f"{part} {median(ours, part):.2f} s" for part in ("imports", "loading", "evaluation")]
    print(f"\nOurs, idle: {', '.join(parts)}")
    print(f"Epoch, augmented to not: {ratios(idle['ours, augmented'], ours, 'epoch')}")
    print(f"Ours, busy to idle: {ratios(busy['ours'], ours, 'whole process')}")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        sys.exit(measured(*sys.argv[2:]))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # The output is a closed pipe, or a file on a full disk.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(141 if isinstance(error, BrokenPipeError) else f"speed.py: error: {error}")
