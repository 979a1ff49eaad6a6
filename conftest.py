"""What the gates need: `--dataset`, the digits, two runs of model.py, and the table of metrics."""

import logging.handlers
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model import LightweightCNN
from support.command_line import dataset_name
from support.dataset import SOURCES, load_digits

pytest_plugins = ["pytester"]  # for tests/; pytest accepts this line only here
HERE = Path(__file__).resolve().parent
METRICS = pytest.StashKey[list]()
WARNINGS = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption(
        "--dataset",
        type=dataset_name,
        default=os.environ.get("MNIST_DATASET") or "auto",
        metavar="{" + ",".join(SOURCES) + "}",
        help="digits that the tests train on (default: $MNIST_DATASET or auto)",
    )


def pytest_configure(config):
    config.stash[METRICS], config.stash[WARNINGS] = [], []


@pytest.fixture(scope="session")
def digits(pytestconfig):
    """The digits under test, as `--dataset` says."""
    warnings = logging.handlers.BufferingHandler(capacity=100)
    logging.getLogger("support.dataset").addHandler(warnings)
    digits = load_digits(pytestconfig.getoption("--dataset"))
    logging.getLogger("support.dataset").removeHandler(warnings)
    pytestconfig.stash[WARNINGS] += [record.getMessage() for record in warnings.buffer]
    return digits


# --- The table of metrics ---------------------------------------------------------------------


@pytest.fixture
def gate(request, digits, record_property):
    """Hold metrics to their bounds in GATES of the test module, and report each, kept or not."""
    gates = request.module.GATES

    def check(metrics):
        unknown = metrics.keys() - gates.keys()
        assert not unknown, f"no gate for {unknown}: GATES in test_model.py has {list(gates)}"
        broken = []
        for name, value in metrics.items():
            sign, bound, unit = gates[name]
            kept = value > bound if sign == ">" else value < bound
            if unit:
                shown = f"{value:.2f}{unit}"
            else:
                shown = f"{value:,}" if isinstance(value, int) else f"{value:#.3g}"
            limit = f"{bound:,g}{unit}"
            row = name, shown, f"{sign} {limit}", "kept" if kept else "**BROKEN**", digits.name
            request.config.stash[METRICS].append(row)
            record_property(name, ", ".join(row[1:]))
            if not kept:
                above = "above" if sign == ">" else "below"
                broken.append(f"{name}: {shown}, must be {above} {limit}")
        assert not broken, "; ".join(broken)

    return check


def pytest_terminal_summary(terminalreporter, config):
    """Print the metrics as a Markdown table, and append it to the summary of a GitHub job."""
    lines = [f"{text}. NOTHING WAS TESTED ON MNIST." for text in config.stash[WARNINGS]]
    if config.stash[METRICS]:
        rows = [("metric", "value", "gate", "kept", "dataset"), *config.stash[METRICS]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, ["-" * width for width in widths])
        commit = os.environ.get("GITHUB_SHA", "")[:7]
        versions = f"Python {platform.python_version()}, torch {torch.__version__}, {rows[2][-1]}"
        lines += [versions + (f", commit {commit}" if commit else ""), ""]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return
    terminalreporter.section("metrics")
    terminalreporter.write_line("\n".join(lines))
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as summary:
                summary.write("\n".join(["", *lines, ""]))
        except OSError as error:
            terminalreporter.write_line(f"WARNING: no summary of the job: {error}")


@pytest.fixture(scope="session", autouse=True)
def versions(record_testsuite_property):
    """Put the versions into the JUnit report too."""
    record_testsuite_property("Python", platform.python_version())
    record_testsuite_property("torch", torch.__version__)


# --- Two runs of model.py ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def runs(digits, tmp_path_factory):
    """`python model.py` without and with `--augment`, started side by side, in New York's time."""
    runs = {}
    for name, flags in {"default": ("--report", "report.png"), "augmented": ("--augment",)}.items():
        folder = tmp_path_factory.mktemp(name)
        command = [sys.executable, HERE / "model.py", "--dataset", digits.source, *flags]
        process = subprocess.Popen(
            [*command, "--save-model", "weights.pt"],
            cwd=folder,
            env=os.environ | {"TZ": "America/New_York"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        runs[name] = SimpleNamespace(process=process, folder=folder, started=time.time())
    yield runs
    for run in runs.values():
        run.process.kill()
        run.process.communicate()


def finished(run):
    """Wait for a run and return what it left."""
    stdout, stderr = run.process.communicate()
    assert run.process.returncode == 0, stderr
    network = LightweightCNN()
    network.load_state_dict(torch.load(run.folder / "weights.pt", weights_only=True))
    return SimpleNamespace(
        started=run.started,
        ended=time.time(),
        folder=run.folder,
        lines=stdout.splitlines(),
        stderr=stderr,
        network=network,
        first_epoch=float(re.search(r"first epoch accuracy: (\S+)%", stdout)[1]),
    )


@pytest.fixture(scope="session")
def default_run(runs):
    return finished(runs["default"])


@pytest.fixture(scope="session")
def augmented_run(runs):
    return finished(runs["augmented"])
