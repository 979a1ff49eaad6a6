"""Flags, errors in one line, files that are whole or absent, and how a process ends."""

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from helpers import masked

import dataset
import model
from command_line import exit_status, write_whole

HERE = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "flags",
    [
        *(["--epochs", value] for value in ("0", "-1", "1.5", "many")),
        *(["--batch-size", value] for value in ("0", "-32")),
        *(["--log-interval", value] for value in ("0", "-100")),
        *(["--lr", value] for value in ("0", "-0.003", "nan", "inf", "fast")),
        *(["--seed", value] for value in ("-1", str(2**64), "x")),
        ["--lr-schedule", "cosine"],
        ["--dataset", "emnist"],
        ["--save-model", str(HERE / "no such folder" / "weights.pt")],
        ["--save-model", str(HERE / "model.py" / "weights.pt")],
        ["--save-model", str(HERE)],
        ["--report", str(HERE / "no such folder" / "report.png")],
        *(["--report", value] for value in ("report.jpg", "report", "report.PNG.txt")),
        ["--no-such-flag"],
    ],
    ids=" ".join,
)
def test_unusable_flags_are_usage_errors(flags, capsys):
    """Status 2 and a line that names the flag, before anything is loaded or trained."""
    with pytest.raises(SystemExit) as exit:
        exit_status(model.main, flags)
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert flags[0] in err.splitlines()[-1]


@pytest.fixture
def unprivileged():
    """Root is refused nothing, so for a while the process is nobody instead."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs a user whom a folder can refuse")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


@pytest.fixture
def locked_folder():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        yield Path(folder)
        Path(folder).chmod(0o755)


@pytest.mark.parametrize("flag", ["--save-model", "--report"])
def test_folder_without_permission_is_a_usage_error(locked_folder, unprivileged, capsys, flag):
    with pytest.raises(SystemExit) as exit:
        model.main([flag, str(locked_folder / "file.png")])
    assert exit.value.code == 2
    assert re.search(rf"argument {flag}: cannot write in folder .*denied", capsys.readouterr().err)


def test_environment_sets_the_defaults_and_is_checked_too(monkeypatch, capsys):
    for name, value, flag in (
        ("MNIST_DATASET", "rendered", "dataset"),
        ("MNIST_DATA_DIR", "elsewhere", "data_dir"),
    ):
        default = {"dataset": "auto", "data_dir": "data"}[flag]
        for setting, expected in ((value, value), ("", default), (None, default)):
            monkeypatch.delenv(name, raising=False)
            if setting is not None:
                monkeypatch.setenv(name, setting)
            assert getattr(model.parse_args([]), flag) == expected
    monkeypatch.setenv("MNIST_DATASET", "rendered")
    assert model.parse_args(["--dataset", "mnist"]).dataset == "mnist"
    monkeypatch.setenv("MNIST_DATASET", "emnist")
    with pytest.raises(SystemExit) as exit:
        model.parse_args([])
    assert exit.value.code == 2
    assert "MNIST_DATASET" in capsys.readouterr().err


def test_bad_dataset_is_a_usage_error_of_pytest():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", HERE, "--collect-only", "-q"],
        env=os.environ | {"MNIST_DATASET": "emnist"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "MNIST_DATASET" in done.stderr
    assert "Traceback" not in done.stderr


# --- Errors that end a run --------------------------------------------------------------------


def test_bad_data_ends_with_one_line_and_status_1(tiny_mnist, capsys):
    path = tiny_mnist.raw / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"")
    flags = ["--dataset", "auto", "--data-dir", str(tiny_mnist.folder)]
    assert exit_status(model.main, flags) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert str(path) in err


def test_stand_in_run_warns_once_and_claims_nothing(tiny_mnist, tiny_stand_in, capsys, caplog):
    """No line of a run on the stand-in can be taken for a result on MNIST."""
    for name in dataset.MNIST_FILES:
        (tiny_mnist.raw / name).unlink()
    flags = ["--dataset", "auto", "--data-dir", str(tiny_mnist.folder)]
    assert exit_status(model.main, flags) == 0
    (warning,) = caplog.messages
    assert warning.startswith("WARNING: MNIST is not in ")
    start, *rest = capsys.readouterr().out.splitlines()
    assert masked(start) == "[time] Starting Training on rendered stand-in digits, NOT on MNIST"
    assert not [line for line in rest if "MNIST" in line or "WARNING" in line]


def test_loss_that_is_not_finite_stops_the_run(few_digits, capsys, tmp_path):
    """At the batch where it happens; nothing is saved."""
    flags = ["--lr", "1e38", "--log-interval", "4", "--save-model", str(tmp_path / "weights.pt")]
    assert exit_status(model.main, flags) == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(
        r".*: error: epoch 1, batch [2-4]/10: .*not finite; try a smaller --lr\n", err
    )
    assert "Batch 4/10" not in out
    assert list(tmp_path.iterdir()) == []


# --- Output -----------------------------------------------------------------------------------


def test_saved_weights_give_the_same_logits(few_digits, digits, tmp_path, monkeypatch):
    """Under the documented keys, readable without running code from the file, and no litter."""
    trained = []
    train = model.train
    monkeypatch.setattr(
        model, "train", lambda *a, **k: trained.append(train(*a, **k)) or trained[0]
    )
    assert exit_status(model.main, ["--save-model", str(tmp_path / "weights.pt")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]
    network = trained[0][0].eval()
    loaded = model.LightweightCNN().eval()
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = digits.test_images[:100] / 255
    assert torch.equal(loaded(x), network(x))
    layers = ("conv1", "conv2", "conv3", "fc1", "fc2")
    keys = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert keys < set(loaded.state_dict())


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    """The file appears whole or not at all."""
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")

    def full_disk(self, content):
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=r"weights\.pt cannot be written: No space left"):
        write_whole(path, bytes(1000))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]
    assert path.read_bytes() == b"old"


def test_what_the_terminal_cannot_show_is_replaced(monkeypatch):
    """A data folder of an Armenian name, on a terminal of western Europe."""
    monkeypatch.setenv("MNIST_DATA_DIR", "Ձ")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit) as exit:
        exit_status(model.main, ["--help"])
    assert exit.value.code == 0
    terminal.flush()
    assert b"(default: ?)" in terminal.buffer.getvalue()


ENDLESS = """if True:
    import sys
    import torch
    import model
    from command_line import exit_status
    images = torch.zeros(1, 1, 28, 28, dtype=torch.uint8).expand(10_000_000, -1, -1, -1)
    digits = images, torch.zeros(10_000_000, dtype=torch.long)
    model.load_digits = lambda train, *_: (*digits, "rendered")
    sys.exit(exit_status(model.main, sys.argv[1:]))
"""


def started_run(*flags):
    """`model.main` in a process of its own, on grey images, once its first three lines are out."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, *flags],
        cwd=HERE,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(120, process.kill)  # for a log that never comes
    guard.start()
    assert [masked(process.stdout.readline())[:6] for _ in range(3)] == ["[time]"] * 3
    guard.cancel()
    return process


def test_closed_pipe_ends_quietly():
    """`python model.py | head -3`."""
    process = started_run("--log-interval", "1")
    process.stdout.close()
    assert process.wait(timeout=300) == 141
    assert process.stderr.read() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT for one process alone")
def test_ctrl_c_ends_with_130_and_writes_nothing(tmp_path):
    # Without another line in sight: the first ones came because each is flushed.
    flags = ["--log-interval", "1000000", "--save-model", str(tmp_path / "weights.pt")]
    process = started_run(*flags)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_help_tells_every_default(capsys):
    with pytest.raises(SystemExit):
        model.main(["--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert text.count("(default: ") == len(vars(model.parse_args([])))
