"""The log of a run."""

import datetime
import os
import re
import time

from helpers import masked, run_python

import model
from model import LightweightCNN, count_parameters


def test_log_is_the_documented_one(default_run, digits):
    """Line for line and column for column; loss falls all the time."""
    start, of, batches = "Starting MNIST Training", "", -(-len(digits.images) // 32)
    if digits.name != "MNIST":
        start, of = f"Starting Training on {digits.name}", f" of {digits.name}"
    positions = [f"{batch}/{batches}," for batch in range(100, batches + 1, 100)]
    width = len(f"{batches}/{batches},")
    expected = [
        f"[time] {start}",
        f"[time] Model initialized with {count_parameters(LightweightCNN()):,} parameters",
        "[time] Training configuration:",
        "  - Device: cpu",
        "  - Optimizer: Adam (lr=0.003)",
        "  - Loss: CrossEntropyLoss",
        "  - Batch size: 32",
        f"  - Total batches per epoch: {batches}",
        "[time] Starting Epoch 1",
        *(f"[time] Epoch 1, Batch {p:{width}} Loss: #.####, Accuracy: ##.##%" for p in positions),
        "[time] Epoch 1 completed - Final Loss: #.####, Final Accuracy: ##.##%",
        "[time] Training completed!",
        "[time] Final first epoch accuracy: ##.##%",
        f"[time] Accuracy on {len(digits.test_images):,} test images{of}: ##.##%",
    ]
    printed = [masked(line) for line in default_run.lines]
    new = [line for line in printed if line not in expected]
    assert printed == expected, f"you changed the log: correct `expected`, and README's log: {new}"
    assert default_run.stderr == "", "model.py warns, as it must if the digits lack a class"
    loss = [float(m[1]) for m in re.finditer(r"Loss: (\d\.\d{4}),", "\n".join(default_run.lines))]
    assert loss == sorted(loss, reverse=True), "the running mean of the loss rises"


def test_line_is_stamped_in_ist_and_flushed():
    """On a computer set to New York's time; os._exit() does not flush."""
    start, environment = time.time(), os.environ | {"TZ": "America/New_York"}
    code = "import model, os; model.log('a line'); os._exit(0)"
    printed = run_python("-c", code, env=environment).stdout
    stamp = datetime.datetime.strptime(f"{printed[1:20]} +0530", "%Y-%m-%d %H:%M:%S %z")
    assert start - 1 <= stamp.timestamp() <= time.time()
    assert printed[20:] == " IST] a line\n"


def test_log_of_other_flags(few_loaded, capsys):
    """The log shows what the flags change; its "first epoch" is the first, also after a second."""
    flags = ["--epochs", "2", "--batch-size", "100", "--lr", "0.01", "--lr-schedule", "linear"]
    model.main([*flags, "--log-interval", "3", "--augment"])
    log = capsys.readouterr().out.splitlines()
    shown = dict(line.removeprefix("  - ").split(": ") for line in log if line.startswith("  - "))
    assert shown["Optimizer"].endswith(" (lr=0.01, linear schedule)")
    assert (shown["Batch size"], shown["Total batches per epoch"]) == ("100", "4")
    assert shown.get("Transform") == "augment", "--augment has no effect"
    lines = [masked(line) for line in log if ", Batch " in line]
    assert lines[0] == "[time] Epoch 1, Batch 3/4, Loss: #.####, Accuracy: ##.##%"
    assert len(lines) == 2, "not one line for each epoch"
    first, second = (line.split()[-1] for line in log if "Final Accuracy" in line)
    assert first != second, "this test cannot tell the epochs apart"
    assert log[-2].endswith(f"Final first epoch accuracy: {first}")
    tests = [line.split(" test accuracy: ")[1] for line in log if " test accuracy: " in line]
    assert len(tests) == 2 and log[-1].endswith(f": {tests[-1]}")


def test_history_is_that_of_the_log_and_other_digits_are_named(few_digits, capsys):
    """No line of the log can be taken for a result on MNIST."""
    digits = few_digits._replace(name="my-digits")
    (epoch,) = model.train(LightweightCNN(), digits, log_interval=3)
    log = capsys.readouterr().out
    for progress in epoch.progress[2::3]:
        shown = f"Loss: {progress.loss:.4f}, Accuracy: {progress.accuracy:5.2f}%"
        assert f"Batch {progress.batch}/10,  {shown}" in log
    assert f"Final Accuracy: {epoch.progress[-1].accuracy:.2f}%" in log
    assert "] Starting Training on my-digits\n" in log
    assert log.endswith(f"on 100 test images of my-digits: {epoch.test_accuracy:.2f}%\n")
    assert "MNIST" not in log
