"""How a run ends: exit status, one line on stderr, and no litter."""

import io
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
import torch
from helpers import ROOT, masked

import model
from support.command_line import run


def test_bad_data_ends_with_one_line_and_status_1(tiny_mnist, capsys):
    (tiny_mnist.raw / "t10k-labels-idx1-ubyte").write_bytes(b"")
    flags = ["--dataset", "auto", "--data-dir", str(tiny_mnist.folder)]
    assert run(model.main, flags) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f": error: the t10k files of MNIST in {tiny_mnist.raw} " in err


def test_loss_that_is_not_finite_ends_with_status_1(few_digits, capsys, tmp_path):
    """At the batch where it happens; nothing is saved."""
    flags = ["--lr", "1e38", "--log-interval", "4", "--save-model", str(tmp_path / "weights.pt")]
    assert run(model.main, flags) == 1
    out, err = capsys.readouterr()
    message = (
        r".*: error: epoch 1, batch [2-4]/10: the loss is not finite; try a smaller .*--lr.*\n"
    )
    assert re.fullmatch(message, err)
    assert "Batch 4/10" not in out
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_one_line(capsys):
    for allocate in (lambda _: torch.empty(2**50), lambda _: bytearray(2**60)):
        assert run(allocate) == 1
        assert capsys.readouterr().err.endswith(": error: out of memory\n")
    with pytest.raises(RuntimeError, match="a bug"):
        run(lambda _: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_what_the_terminal_cannot_show_is_replaced(monkeypatch):
    """A name in Armenian on a Western European terminal."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run(lambda _: print("wrote Ձ")) == 0
    assert terminal.buffer.getvalue().split() == [b"wrote", b"?"]


PRINT_LINES = """if True:
    import sys
    from support.command_line import run
    sys.exit(run(lambda _: [print("line", flush=True) for _ in range(100_000)]))
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


ENDLESS_RUN = """if True:
    import signal, sys, torch
    import model
    from support.command_line import run
    from support.dataset import Digits
    # A background job of a shell ignores Ctrl-C, and so would this process as its child.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    images = torch.zeros(1, 1, 28, 28, dtype=torch.uint8).expand(1_000_000, -1, -1, -1)
    labels = torch.zeros(1_000_000, dtype=torch.long)
    model.load_digits = lambda *_: Digits(images, labels, images, labels, "grey images")
    sys.exit(run(model.main))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT for one process alone")
def test_ctrl_c_ends_with_130_and_writes_nothing(tmp_path):
    command = [sys.executable, "-c", ENDLESS_RUN]
    # No further line comes soon: the first three come because each is flushed.
    command += ["--log-interval", "1000000", "--save-model", tmp_path / "weights.pt"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
        guard = threading.Timer(120, process.kill)  # for a log or an end that never comes
        guard.start()
        try:
            assert [masked(process.stdout.readline())[:6] for _ in range(3)] == ["[time]"] * 3
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate()
        finally:
            guard.cancel()
            process.kill()
    assert (process.returncode, stderr) == (130, "")
    assert list(tmp_path.iterdir()) == []
