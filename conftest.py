"""What the gates need: `--dataset`, the digits, two runs of model.py, and the table of metrics."""

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
from support.dataset import ROOT, SOURCES, load_digits


def pytest_addoption(parser):
    parser.addoption(
        "--dataset",
        type=dataset_name,
        default=os.environ.get("MNIST_DATASET") or "auto",
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


# --- The table of metrics ---------------------------------------------------------------------


def hold(metrics, gates, dataset, record_property):
    """Record each metric, kept or not, and fail if one is beyond its bound in `gates`."""
    unknown = metrics.keys() - gates.keys()
    assert not unknown, f"no gate for {unknown}: GATES in test_model.py has {list(gates)}"
    broken = []
    for name, value in metrics.items():
        sign, bound, unit = gates[name]
        kept = value > bound if sign == ">" else value < bound
        number = f"{value:,}" if isinstance(value, int) else f"{value:#.3g}"
        shown = f"{value:.2f}%" if unit == "%" else number + unit
        limit = f"{bound:,g}{unit}"
        verdict = "kept" if kept else "**BROKEN**"
        record_property(name, f"{shown}; {sign} {limit}; {verdict}; {dataset}")
        if not kept:
            above = "above" if sign == ">" else "below"
            broken.append(f"{name}: {shown}, must be {above} {limit}")
    if broken:
        raise AssertionError("; ".join(broken))


@pytest.fixture
def gate(request, digits, record_property):
    """A function that holds metrics, by name, to their bounds in GATES of the test module."""
    return lambda metrics: hold(metrics, request.module.GATES, digits.name, record_property)


def pytest_terminal_summary(terminalreporter):
    """Print the metrics as a Markdown table, and append it to the summary of a GitHub job."""
    reports = [r for several in terminalreporter.stats.values() for r in several]
    reports = [r for r in reports if getattr(r, "when", None) == "call" and r.user_properties]
    rows = [("metric", "value", "gate", "kept", "dataset")]
    for report in sorted(reports, key=lambda report: report.location[:2]):
        rows += [(name, *text.split("; ", 3)) for name, text in report.user_properties]
    if len(rows) == 1:
        return
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


# --- Two runs of model.py ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def start(digits, pytestconfig, tmp_path_factory):
    """A function that starts model.py on the same digits; it returns process and folder."""
    dataset = pytestconfig.getoption("--dataset")
    if dataset == "auto":  # A second process must not search, and warn, again.
        dataset = "mnist" if digits.name == "MNIST" else "rendered"
    processes = []

    def start(*flags):
        folder = tmp_path_factory.mktemp("run")
        command = [sys.executable, ROOT / "model.py", "--dataset", dataset, *flags]
        process = subprocess.Popen(
            [*command, "--save-model", "weights.pt"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process, folder

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def finished(process, folder):
    """Wait for a run and return what it left."""
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    network = LightweightCNN()
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return SimpleNamespace(
        folder=folder,
        lines=stdout.splitlines(),
        stderr=stderr,
        network=network,
        first_epoch=float(re.search(r"first epoch accuracy: (\S+)%", stdout)[1]),
    )


# Each run starts when a test first needs it. Who asks for both before waiting, has them side by
# side.
@pytest.fixture(scope="session")
def default_start(start):
    return start("--report", "report.png")


@pytest.fixture(scope="session")
def augmented_start(start):
    return start("--augment")


@pytest.fixture(scope="session")
def default_run(default_start):
    return finished(*default_start)


@pytest.fixture(scope="session")
def augmented_run(augmented_start):
    return finished(*augmented_start)
