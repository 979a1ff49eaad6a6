"""Flags and their errors."""

import inspect

import pytest
from helpers import ROOT

import model
from support.command_line import run


def usage_error(flags, capsys):
    """Run model.py, which must refuse the flags with status 2; return the line that says why."""
    with pytest.raises(SystemExit) as exit:
        run(model.main, flags)
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    usage, _, message = err.rpartition(": error: ")
    assert (out, usage[:7], message.count("\n")) == ("", "usage: ", 1)
    return message


UNUSABLE = [
    ("--epochs", "0", "must be at least 1, got '0'"),
    ("--seed", str(2**64), "must be from 0 to 2**64 - 1, got '"),
    ("--lr", "nan", "must be finite and above 0, got 'nan'"),
    ("--lr", "fast", "invalid learning_rate value: 'fast'"),
    ("--dataset", "emnist", "must be one of auto, mnist, rendered"),
    ("--report", "report.jpg", "must end in .png, .pdf or .svg, got"),
    ("--save-model", "no such folder/x.pt", "cannot write no such folder/x.pt: "),
    ("--save-model", "~no-such-user/x.pt", "cannot write ~no-such-user/x.pt: "),
    ("--save-model", "tests", "'tests' is a folder; add the name of a file"),
]


@pytest.mark.parametrize(("flag", "value", "message"), UNUSABLE)
def test_unusable_flag_is_a_usage_error(flag, value, message, capsys, monkeypatch):
    """Status 2 and one line that names the flag, before anything is loaded or trained."""
    monkeypatch.chdir(ROOT)
    line = usage_error([flag, value], capsys)
    assert line.startswith(f"argument {flag}: ")
    assert message in line


def test_flags_and_train_have_the_same_defaults():
    flags = vars(model.parse_args([]))
    for name, parameter in inspect.signature(model.train).parameters.items():
        if name in flags:
            assert flags[name] == parameter.default, name


def test_environment_sets_the_default_of_dataset_and_is_checked_too(monkeypatch, capsys):
    for setting, expected in (("rendered", "rendered"), ("", "auto")):
        monkeypatch.setenv("MNIST_DATASET", setting)
        assert model.parse_args([]).dataset == expected
    monkeypatch.setenv("MNIST_DATASET", "emnist")
    assert "MNIST_DATASET" in usage_error([], capsys)


def test_one_file_cannot_be_weights_and_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    message = usage_error(["--save-model", "x.png", "--report", "./x.png"], capsys)
    assert "--save-model and --report are the same file" in message
