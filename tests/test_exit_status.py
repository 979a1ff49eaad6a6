"""How a run ends: exit status, one line on stderr, and no litter."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import augment
import model
from support.command_line import run, write_whole
from support.dataset import FILES


def test_bad_data_ends_with_one_line_and_status_1(tmp_path, capsys):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FILES:
        (raw / file).write_bytes(b"not MNIST")
    for script in (model, augment):
        assert run(script.main, ["--dataset", "auto", "--data-dir", str(tmp_path)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert f": error: {raw / FILES[0]} is damaged" in err


BROKEN = {
    "32": r"epoch 1, batch [2-4]: the loss is not finite",
    "320": r"the network's logits are not finite",  # One update: the loss before it is finite.
}


@pytest.mark.parametrize("batch_size", BROKEN)
def test_broken_training_ends_with_status_1(few_loaded, capsys, tmp_path, batch_size):
    """In one line that says what to try; nothing is saved."""
    flags = ["--lr", "1e38", "--batch-size", batch_size, "--save-model", str(tmp_path / "x.pt")]
    assert run(model.main, flags) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(rf".*: error: {BROKEN[batch_size]}; try a smaller .*--lr.*\n", error)
    assert list(tmp_path.iterdir()) == []


def test_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    """When the disk is full, an old file stays; a new one has its permissions."""
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")
    path.chmod(0o600)

    def full_disk(part, content):
        part.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full_disk)
        assert run(lambda _: write_whole(path, bytes(1000))) == 1
    line = f": error: {path} cannot be written: No space left on device\n"
    assert capsys.readouterr().err.endswith(line)
    assert path.read_bytes() == b"old"
    mode = path.stat().st_mode
    write_whole(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode) == (b"new", mode)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]


PRINT_LINES = """if True:
    import signal, sys, time
    from support.command_line import run
    def main(argv):
        for _ in range(10_000):
            print("line", flush=True)
            time.sleep(0.001)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Background jobs ignore Ctrl-C.
    sys.exit(run(main))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
@pytest.mark.parametrize("end", ["closed pipe", "Ctrl-C"])
def test_closed_pipe_and_ctrl_c_end_quietly(end):
    """With status 141, as in `python model.py | head -3`; and by the signal, as shells expect."""
    command, pipe = [sys.executable, "-c", PRINT_LINES], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe) as process:
        assert process.stdout.readline() == b"line\n"
        if end == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        process.stdout.close() if end == "closed pipe" else process.stdout.read()
        assert process.wait(timeout=300) == (141 if end == "closed pipe" else -signal.SIGINT)
        assert process.stderr.read() == b""
