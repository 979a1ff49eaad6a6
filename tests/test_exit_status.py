"""How a run ends: exit status, one line on stderr, and no litter."""

import errno
import io
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import model
from support.command_line import run, write_whole
from support.dataset import FILES
from support.digits import ROOT


@pytest.mark.parametrize("script", ["model.py", "augment.py"])
def test_bad_data_ends_with_one_line_and_status_1(tmp_path, script, monkeypatch, capsys):
    """Run as a script; in this process, since torch is slow to import."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FILES:
        (raw / file).write_bytes(b"not MNIST")
    monkeypatch.setattr(sys, "argv", [script, "--dataset", "auto", "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert exit.value.code == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"{script}: error: {raw / FILES[0]} is damaged")


BROKEN = {
    "32": r"epoch 1, batch [2-4]: the loss is not finite",
    "320": r"the network's logits are not finite",  # One update: the loss before it is finite.
}


@pytest.mark.parametrize("batch_size", BROKEN)
def test_broken_training_ends_with_status_1(few_loaded, capsys, tmp_path, batch_size):
    """In one line that says what to try; nothing is saved."""
    flags = ["--lr", "1e38", "--batch-size", batch_size, "--save-model", str(tmp_path / "x.pt")]
    assert run(model.main, [*flags, "--log-interval", "4"]) == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(rf".*: error: {BROKEN[batch_size]}; try a smaller .*--lr.*\n", err)
    assert "Batch 4/10" not in out
    assert list(tmp_path.iterdir()) == []


def test_full_disk_ends_with_one_line_and_status_1(tmp_path, monkeypatch, capsys):
    """The file appears whole or not at all; an old one stays."""
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")

    def full_disk(part, content):
        part.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full_disk)
        assert run(lambda _: write_whole(path, bytes(1000))) == 1
    line = f": error: {path} cannot be written: No space left on device\n"
    assert capsys.readouterr().err.endswith(line)
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]


def test_too_little_memory_is_one_line(capsys):
    for allocate in (lambda _: torch.empty(2**50), lambda _: bytearray(2**60)):
        assert run(allocate) == 1
        assert capsys.readouterr().err.endswith(": error: out of memory\n")
    with pytest.raises(RuntimeError, match="a bug"):
        run(lambda _: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_what_the_terminal_cannot_show_is_replaced(monkeypatch):
    """A name in Armenian on a Western European terminal."""
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding="cp1252"))
    assert run(lambda _: print("wrote \u0541")) == 0
    assert terminal.getvalue().split() == [b"wrote", b"?"]


PRINT_LINES = """if True:
    import sys
    from support.command_line import run
    sys.exit(run(lambda _: any(print("line", flush=True) for _ in range(100_000))))
"""


def test_closed_pipe_ends_quietly():
    """As in `python model.py | head -3`: neither the next line nor Python's exit may complain."""
    command = [sys.executable, "-c", PRINT_LINES]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline().rstrip() == b"line"
        process.stdout.close()
        assert process.wait(timeout=300) == 141
        assert process.stderr.read() == b""


def test_ctrl_c_ends_quietly_with_130(capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    assert run(interrupted) == 130
    assert capsys.readouterr() == ("", "")
