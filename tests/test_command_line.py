"""Flags and their errors, and files that are whole or absent."""

import inspect
import os
import re
from pathlib import Path

import pytest
from helpers import ROOT
from matplotlib.figure import Figure

import model
from support.command_line import run, write_picture


def usage_error(flags, capsys):
    """Run model.py, which must refuse the flags with status 2; return the line that says why."""
    with pytest.raises(SystemExit) as exit:
        run(model.main, flags)
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    usage, _, message = err.rpartition(": error: ")
    assert usage.startswith("usage: ")
    assert message.count("\n") == 1
    return message


COUNTS = ("--epochs", "--batch-size", "--log-interval")
UNUSABLE = [
    *((flag, ["1.5", "many", "1e3", ""], "invalid positive_int value: '") for flag in COUNTS),
    *((flag, ["0", "-1"], "must be at least 1, got '") for flag in COUNTS),
    ("--seed", ["1.5", ""], "invalid seed value: '"),
    ("--seed", ["-1", str(2**64)], "must be from 0 to 2**64 - 1, got '"),
    ("--lr", ["fast", ""], "invalid learning_rate value: '"),
    ("--lr", ["0", "-0.003", "nan", "inf"], "must be finite and above 0, got '"),
    ("--lr-schedule", ["no-such-schedule"], "invalid choice: 'no-such-schedule'"),
    ("--dataset", ["emnist"], "must be one of auto, mnist, rendered"),
    ("--report", ["report.jpg", "report", "r.PNG.txt"], "must end in .png, .pdf or .svg, got"),
    ("--report", ["no such folder/report.png"], "cannot write no such folder"),
    ("--save-model", ["no such folder/x.pt", "model.py/x.pt", "x" * 300], "cannot write "),
    ("--save-model", ["tests", ".", "models/", ""], " is a folder; add the name of a file"),
]


@pytest.mark.parametrize(("flag", "values", "message"), UNUSABLE)
def test_unusable_flags_are_usage_errors(flag, values, message, capsys, monkeypatch):
    """Status 2 and one line that names the flag, before anything is loaded or trained."""
    monkeypatch.chdir(ROOT)
    for value in values:
        line = usage_error([flag, value], capsys)
        assert line.startswith(f"argument {flag}: ")
        assert message in line


def test_values_at_the_limits_are_accepted():
    args = model.parse_args([*(f"{flag}=1" for flag in COUNTS), "--lr=1e-300", "--seed=0"])
    assert (args.epochs, args.batch_size, args.log_interval) == (1, 1, 1)
    assert (args.lr, args.seed) == (1e-300, 0)
    assert model.parse_args([f"--seed={2**64 - 1}"]).seed == 2**64 - 1


def test_flags_and_train_have_the_same_defaults():
    flags = vars(model.parse_args([]))
    for name, parameter in inspect.signature(model.train).parameters.items():
        if name in flags:
            assert flags[name] == parameter.default, name


def test_help_tells_every_default_that_is_a_value(capsys, monkeypatch):
    monkeypatch.delenv("MNIST_DATASET", raising=False)
    with pytest.raises(SystemExit):
        model.main(["--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    values = vars(model.parse_args([])).values()
    defaults = [str(value) for value in values if value is not None and value is not False]
    # The default of --data-dir is explained in more than one word.
    assert re.findall(r"\(default: (\S+)\)", text) == defaults


def test_environment_sets_the_default_of_dataset_and_is_checked_too(monkeypatch, capsys):
    for setting, expected in (("rendered", "rendered"), ("", "auto")):
        monkeypatch.setenv("MNIST_DATASET", setting)
        assert model.parse_args([]).dataset == expected
        assert model.parse_args(["--dataset", "mnist"]).dataset == "mnist"
    monkeypatch.setenv("MNIST_DATASET", "emnist")
    assert "MNIST_DATASET" in usage_error([], capsys)


# --- Where files may be written -----------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_check_of_an_output_changes_nothing(tmp_path, there):
    """A second run of the same command, at work beside this one, keeps its file."""
    path = tmp_path / "weights.pt"
    if there:
        path.write_bytes(b"old")
    before = [(p.stat().st_ino, p.read_bytes()) for p in tmp_path.iterdir()]
    assert model.parse_args(["--save-model", str(path)]).save_model == path
    assert [(p.stat().st_ino, p.read_bytes()) for p in tmp_path.iterdir()] == before


@pytest.mark.skipif(os.name != "posix", reason="needs the special files of POSIX")
def test_device_or_pipe_is_refused_and_stays(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", str(tmp_path / "pipe")):
        assert "is not a regular file" in usage_error(["--save-model", path], capsys)
        assert Path(path).exists()


def test_one_file_cannot_be_weights_and_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for other in ("x.png", "./x.png", str(tmp_path / "x.png")):
        message = usage_error(["--save-model", "x.png", "--report", other], capsys)
        assert "--save-model and --report are the same file" in message


def test_suffix_names_the_format(tmp_path):
    for suffix, magic in {"png": b"\x89PNG", "PDF": b"%PDF-", "svg": b"<?xml"}.items():
        path = tmp_path / f"picture.{suffix}"
        write_picture(path, lambda: Figure(figsize=(1, 1)))
        assert path.read_bytes().startswith(magic)
