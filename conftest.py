"""What the gates need: `--dataset`, the digits, a run of model.py, and the table of metrics."""

import os
import platform
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model import LightweightCNN
from support.command_line import dataset_name
from support.dataset import SOURCES, default_dataset, load_digits
from support.digits import ROOT


def pytest_addoption(parser):
    parser.addoption(
        "--dataset",
        type=dataset_name,
        default=default_dataset(),
        metavar="{" + ",".join(SOURCES) + "}",
        help="digits that the tests train on (default: $MNIST_DATASET or auto)",
    )


@pytest.fixture(scope="session")
def digits(pytestconfig):
    """The digits under test, as `--dataset` says."""
    digits = load_digits(pytestconfig.getoption("--dataset"))
    if digits.name == "rendered digits" and pytestconfig.getoption("--dataset") == "auto":
        warnings.warn("MNIST is not here: NOTHING WAS TESTED ON MNIST", stacklevel=1)
    return digits


@pytest.fixture
def gate(request, digits, record_property):
    """A function that records metrics, by name, and holds them to BOUNDS of the test module."""

    def gate(metrics):
        broken = []
        for name, value in metrics.items():
            sign, bound, unit = request.module.BOUNDS[name]
            kept = value > bound if sign == ">" else value < bound
            number = f"{value:,}" if isinstance(value, int) else f"{value:#.3g}"
            shown, limit = f"{value:.2f}%" if unit == "%" else number, f"{sign} {bound:,g}{unit}"
            cells = (shown, limit, "kept" if kept else "**BROKEN**", digits.name)
            record_property(name, cells)
            if not kept:
                broken.append(f"{name}: {shown}, must be {limit}")
        if broken:
            raise AssertionError("; ".join(broken))

    return gate


def pytest_terminal_summary(terminalreporter):
    """Print the metrics as a Markdown table, and append it to the summary of a GitHub job."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    reports = sorted((r for r in reports if r.when == "call"), key=lambda r: r.location[:2])
    rows = [(name, *cells) for report in reports for name, cells in report.user_properties]
    if not rows:
        return
    rows.insert(0, ("metric", "value", "bound", "kept", "dataset"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = [f"Python {platform.python_version()}, torch {torch.__version__}", ""]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"| {' | '.join(cells)} |")
    terminalreporter.section("metrics")
    terminalreporter.write_line("\n".join(lines))
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as summary:
            summary.write("\n".join(["", *lines, ""]))


@pytest.fixture(scope="session")
def default_start(digits, pytestconfig, tmp_path_factory):
    """`python model.py` on the same digits: its process, and the folder into which it writes."""
    dataset = pytestconfig.getoption("--dataset")
    if dataset == "auto":  # A second process must not search, and warn, again.
        dataset = "mnist" if digits.name == "MNIST" else "rendered"
    folder = tmp_path_factory.mktemp("run")
    flags = ["--dataset", dataset, "--save-model", folder / "weights.pt"]
    flags += ["--report", folder / "report.png"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, ROOT / "model.py", *flags], **pipes)
    yield process, folder
    process.kill()
    process.communicate()


@pytest.fixture(scope="session")
def default_run(default_start):
    """What the run left: its folder, the lines of its log, stderr, network, accuracy."""
    process, folder = default_start
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    network = LightweightCNN()
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    lines = stdout.splitlines()
    assert lines[-2:] == [f"wrote {folder / name}" for name in ("weights.pt", "report.png")]
    return SimpleNamespace(
        folder=folder,
        lines=lines[:-2],
        stderr=stderr,
        network=network,
        first_epoch_accuracy=float(re.search(r"first epoch accuracy: (\S+)%", stdout)[1]),
    )
