"""The record of runs, the tables that are made from it, and the figures in the documents."""

import json
import math
import re
import statistics

import pytest
import seeds
import speed
import torch
from helpers import ROOT
from test_documents import BLOCK, README, TEXTS

RUNS = ROOT / "benchmarks/runs.jsonl"
FIGURES = TEXTS["benchmarks/README.md"]


def test_tables_of_runs_are_those_of_the_record():
    expected = seeds.tables(seeds.read_lines([RUNS])).splitlines()
    missing = [line for line in expected if line not in FIGURES.splitlines()]
    command = "python benchmarks/seeds.py --tables benchmarks/runs.jsonl"
    assert not missing, f"put the tables that `{command}` prints into benchmarks/README.md"


def test_table_of_speed_is_that_of_the_record():
    record = (ROOT / "benchmarks/speed.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.loads(line) for line in record]
    expected = "\n".join(speed.table(lines))
    command = "python benchmarks/speed.py --table benchmarks/speed.jsonl"
    assert expected in FIGURES, f"put the table that `{command}` prints into benchmarks/README.md"
    for machine in {line["machine"] for line in lines}:
        assert machine in FIGURES, f"benchmarks/README.md does not name the machine {machine}"
    (shown,) = re.findall(r"training takes (\d+) to (\d+) seconds", README)
    alone = [line for line in lines if (line["script"], line["beside"]) == ("ours", "nothing")]
    for line in alone:
        assert int(shown[0]) <= line["seconds"] <= int(shown[1]), f"README: {line['seconds']} s"


def test_figures_in_the_text_are_those_of_the_tables():
    """Each percentage with two decimals in README and benchmarks/README, except in the log."""
    cells = set(re.findall(r"\d+\.\d\d%", seeds.tables(seeds.read_lines([RUNS]))))
    for name, text in (("README.md", BLOCK.sub("", README)), ("benchmarks/README.md", FIGURES)):
        wrong = set(re.findall(r"\d+\.\d\d%", text)) - cells
        assert not wrong, f"{name}: {wrong} is not in the tables of benchmarks/README.md"


def test_figures_in_the_text_are_those_of_their_metric():
    """Each stands in a phrase that says what it measures."""
    lines = [line for line in seeds.read_lines([RUNS]) if line["dataset"] == "MNIST"]
    values = {}
    for line in lines:
        for name, value in line["metrics"].items():
            values.setdefault(name, []).append(value)
    mean = {name: f"{statistics.mean(several):.2f}%" for name, several in values.items()}
    runs = [line for line in lines if line["part"] == "default_run"]
    worst = min(runs, key=lambda line: line["metrics"]["test accuracy"])
    lowest = f"{worst['metrics']['test accuracy']:.2f}%"
    pages = 60 * len(values["digits on photographs"])
    for phrase in (
        f"Across {len(runs)} runs, its test accuracy is **{mean['test accuracy']} on average",
        f"and {lowest} in the worst run",
        f"test accuracy is {mean['test accuracy, linear']} on average",
        f"{mean['digits on photographs']} of {pages} digits",
        f"{mean['empty pages taken for a digit']} of {pages} empty pages",
    ):
        assert phrase in README, f"README must say: {phrase}"
    linear, augmented = mean["moved digits, linear"], mean["moved digits, linear, augmented"]
    for phrase in (
        f"from {linear} to {augmented}",
        f"seed {worst['seed']} on the {worst['machine'].split()[0]} processor",
    ):
        assert phrase in FIGURES, f"benchmarks/README.md must say: {phrase}"


# --- The tools, on numbers that can be checked by hand ------------------------------------------


def test_calibration_error_by_hand():
    """Two images of confidence 0.6, one right, and two of 0.9, both right: 10% in each bin."""
    confidence = torch.tensor([0.6, 0.6, 0.9, 0.9], dtype=torch.float64)
    logits = torch.stack([confidence.log(), (1 - confidence).log()], dim=1)  # (4, 2)
    assert seeds.calibration_error(logits, torch.tensor([0, 1, 0, 0])) == pytest.approx(10)
    certain = torch.tensor([[math.inf, 0.0]]).clamp(max=100)  # of confidence 1: the last bin
    assert seeds.calibration_error(certain, torch.tensor([1])) == pytest.approx(100)


def test_summary_of_a_metric_by_hand(monkeypatch):
    """The room is the distance from the worst run, which "<" has at the other end."""
    monkeypatch.setattr(seeds, "BOUNDS", {"good": (">", 90.0, "%"), "bad": ("<", 8.0, "")})
    numbers = ["3", "94.00%", "2.00%", "92.00%", "96.00%"]
    assert seeds.summary("good", [96.0, 92.0, 94.0]) == [*numbers, "> 90%", "2.00"]
    assert seeds.summary("unbounded", [96.0, 92.0, 94.0]) == [*numbers, "", ""]
    assert seeds.summary("bad", [3.0, 5.0]) == ["2", "4", "1.41", "3", "5", "< 8", "3"]
    assert seeds.summary("good", [92.0])[2] == "0.00%", "one run has no deviation"


def test_lines_of_several_machines_are_joined(tmp_path):
    """A line that was measured again replaces the first; what is not JSON is left out."""

    def line(machine, seed, accuracy):
        metrics = {"test accuracy": accuracy}
        where = {"dataset": "MNIST", "part": "default_run", "seed": seed, "machine": machine}
        return json.dumps(where | {"metrics": metrics})

    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("\n".join([line("A", 0, 97.0), line("A", 1, 98.0), "| a | table |"]))
    second.write_text("\n".join([line("B", 0, 99.0), line("A", 0, 96.0)]))
    text = seeds.tables(seeds.read_lines([first, second])).splitlines()
    assert text[2:4] == ["| A | MNIST | 2 | 0 | 0 | 0 |", "| B | MNIST | 1 | 0 | 0 | 0 |"]
    assert text[-1].startswith("| test accuracy | 3 | 97.67% | 1.53% | 96.00% | 99.00% | > ")


def test_speed_is_the_ratio_of_each_round():
    lines = [
        {"round": number, "beside": beside, "script": script, "seconds": seconds, "MiB": mib}
        for beside in ("nothing", "a busy core")
        for number, times in ((1, (1, 2)), (2, (3, 4)), (3, (1, 4)))
        for script, seconds, mib in (("ours", times[0], 90), ("textbook", times[1], 100))
    ]
    rows = list(speed.table(lines))[2:]
    assert [row.split(" | ")[1:] for row in rows] == [
        ["0.50", "0.25", "0.75 |"],
        ["0.50", "0.25", "0.75 |"],
        ["0.90", "0.90", "0.90 |"],
    ]
