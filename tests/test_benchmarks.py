"""The record of runs, the tables that are made from it, and the figures in the documents."""

import csv
import hashlib
import json
import re

import photographs
import pytest
import seeds
import speed
from helpers import ROOT

from support.digits import DataError

FIGURES = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")


def test_tables_are_those_of_the_record():
    """And each percentage with two decimals in README and benchmarks/README is in a table."""
    expected = seeds.tables(seeds.read_lines([ROOT / "benchmarks/runs.jsonl"]))
    missing = [line for line in expected.splitlines() if line not in FIGURES.splitlines()]
    remedy = (
        "put the tables that `python benchmarks/seeds.py --tables benchmarks/runs.jsonl` prints"
    )
    again = "if you changed the network or its training, measure the runs again before"
    assert not missing, f"{remedy} into benchmarks/README.md; {again}. Not there: {missing}"
    text = re.sub(
        r"^```.*?^```", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S
    )
    wrong = set(re.findall(r"\d+\.\d\d%", text + FIGURES)) - set(
        re.findall(r"\d+\.\d\d%", expected)
    )
    assert not wrong, f"the documents have figures that are in no table: {wrong}"
    record = (ROOT / "benchmarks/speed.jsonl").read_text(encoding="utf-8").splitlines()
    expected = speed.table([json.loads(line) for line in record])
    assert expected in FIGURES, "put the table of `python benchmarks/speed.py --table` there"


def test_lines_of_several_machines_are_joined(tmp_path, monkeypatch):
    """A line that was measured again replaces the first; the row of a metric by hand."""

    def line(machine, seed, accuracy):
        where = {"dataset": "MNIST", "part": "default_run", "seed": seed, "machine": machine}
        return json.dumps(where | {"metrics": {"test accuracy": accuracy}})

    monkeypatch.setattr(seeds, "BOUNDS", {"test accuracy": (">", 90.0, "%")})
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("\n".join([line("A", 0, 97.0), line("A", 1, 98.0), "| a | table |"]))
    second.write_text("\n".join([line("B", 0, 99.0), line("A", 0, 96.0)]))
    text = seeds.tables(seeds.read_lines([first, second])).splitlines()
    assert text[2:4] == ["| A | MNIST | 2 | 0 | 0 | 0 |", "| B | MNIST | 1 | 0 | 0 | 0 |"]
    assert text[-1] == "| test accuracy | 3 | 97.67% | 1.53% | 96.00% | > 90% |"
    first.write_text('{"round": 1}')
    with pytest.raises(DataError, match="a line that is not of seeds"):
        seeds.read_lines([first])


def test_photographs_are_fetched_once_and_checked(tmp_path, monkeypatch, caplog):
    """One of three is damaged, and one is missing; a folder stands for the server."""
    folder, rows = tmp_path / "me" / "digits" / "0" / "a folder", []
    folder.mkdir(parents=True)
    for digit, name in enumerate(("sound.png", "damaged.png", "missing.png")):
        (folder / name).write_bytes(name.encode())
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        rows.append([digit, "me/digits", "0", f"a folder/{name}", sha256])
    (folder / "damaged.png").write_bytes(b"other")
    (folder / "missing.png").unlink()
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["digit", "repository", "commit", "path", "sha256"], *rows])
    monkeypatch.setattr(photographs, "SERVER", tmp_path.as_uri())
    monkeypatch.setattr(photographs, "LIST", tmp_path / "list.csv")
    expected = [(tmp_path / "data" / "photographs" / rows[0][4], 0)]
    assert photographs.fetch(tmp_path / "data") == expected
    assert "2 of 3 photographs are not available: " in caplog.text
    assert "missing.png" in caplog.text and "its SHA-256 is wrong" in caplog.text
    (folder / "sound.png").unlink()
    assert photographs.fetch(tmp_path / "data") == expected, "fetched again"
    expected[0][0].unlink()
    with pytest.raises(DataError, match="none of 3 photographs is available"):
        photographs.fetch(tmp_path / "data")
