"""What all tests share: `--dataset`, the digits, two trained runs, and the table of figures."""

import hashlib
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dataset
import model
from command_line import dataset_name, use_one_thread
from dataset import load_digits

HERE = Path(__file__).resolve().parent
FIGURES = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption(
        "--dataset",
        type=dataset_name,
        default=os.environ.get("MNIST_DATASET") or "auto",
        metavar="{" + ",".join(dataset.DATASETS) + "}",
        help="digits that the tests train on (default: $MNIST_DATASET or auto)",
    )


def pytest_configure(config):
    use_one_thread()
    config.stash[FIGURES] = []


@pytest.fixture(scope="session")
def digits(request):
    """Both splits of the digits under test, and their source."""
    images, labels, source = load_digits(True, request.config.getoption("--dataset"))
    test_images, test_labels, _ = load_digits(False, source)
    return SimpleNamespace(
        images=images,
        labels=labels,
        test_images=test_images,
        test_labels=test_labels,
        source=source,
    )


# --- Figures ----------------------------------------------------------------------------------


@pytest.fixture
def gate(request, digits, record_property):
    """Hold a figure to its bound in the test module, and report both, kept or not."""

    def check(name, value):
        sign, bound = next(
            (sign, bounds[name])
            for sign, bounds in ((">", request.module.ABOVE), ("<", request.module.BELOW))
            if name in bounds
        )
        shown = f"{value:,}" if isinstance(value, int) else f"{value:#.4g}"
        row = name, shown, f"{sign} {bound:,g}", digits.source
        request.config.stash[FIGURES].append(row)
        record_property(name, f"{row[1]} {row[2]} ({digits.source})")
        assert value > bound if sign == ">" else value < bound, " ".join(row[:3])

    return check


def pytest_terminal_summary(terminalreporter, config):
    """Print the figures as a Markdown table, and append it to the summary of a GitHub job."""
    if not config.stash[FIGURES]:
        return
    rows = [("figure", "value", "bound", "digits"), *config.stash[FIGURES]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"| {a:<{widths[0]}} | {b:>{widths[1]}} | {c:>{widths[2]}} | {d:<{widths[3]}} |"
        for a, b, c, d in rows
    ]
    a, b, c, d = ("-" * width for width in widths)
    lines.insert(1, f"| {a} | {b[1:]}: | {c[1:]}: | {d} |")
    terminalreporter.section("figures")
    terminalreporter.write_line("\n".join(lines))
    if "GITHUB_STEP_SUMMARY" in os.environ:
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as summary:
            summary.write("\n".join(["", *lines, ""]))


# --- Trained networks -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runs(digits, tmp_path_factory):
    """`python model.py` without and with `--augment`, started side by side, in New York's time."""
    processes = {}
    for name, flags in {"default": (), "augmented": ("--augment",)}.items():
        folder = tmp_path_factory.mktemp(name)
        command = [sys.executable, HERE / "model.py", "--dataset", digits.source, *flags]
        processes[name] = process = subprocess.Popen(
            [*command, "--save-model", "weights.pt", "--report", "report.png"],
            cwd=folder,
            env=os.environ | {"TZ": "America/New_York"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.folder, process.started = folder, time.time()
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


def finished(process):
    """Wait for a run and return what it left."""
    stdout, stderr = process.communicate(timeout=900)
    assert process.returncode == 0, stderr
    network = model.LightweightCNN()
    network.load_state_dict(torch.load(process.folder / "weights.pt", weights_only=True))
    return SimpleNamespace(
        started=process.started,
        ended=time.time(),
        lines=stdout.splitlines(),
        stderr=stderr,
        network=network,
        report=process.folder / "report.png",
        first_epoch=float(re.search(r"first epoch accuracy: (\S+)%", stdout)[1]),
    )


@pytest.fixture(scope="session")
def default_run(runs):
    return finished(runs["default"])


@pytest.fixture(scope="session")
def augmented_run(runs):
    return finished(runs["augmented"])


# --- Small stand-ins --------------------------------------------------------------------------


@pytest.fixture
def few_digits(digits, monkeypatch):
    """Lets `model.main` run on 320 training and 100 held-out digits."""
    few = {
        True: (digits.images[:320], digits.labels[:320]),
        False: (digits.test_images[:100], digits.test_labels[:100]),
    }
    monkeypatch.setattr(model, "load_digits", lambda train, *_: (*few[train], digits.source))


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """A data folder with seven and three hand-made digits whose checksums count as published.

    Downloads go to a port of this machine where nobody listens: no test uses the network.
    """
    from torchvision.datasets import MNIST  # Takes a second to import, which few tests need.

    folder = tmp_path / "digits"
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    files, content = {}, {}
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 7), ("t10k", 3)):
        images = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=generator)
        labels = torch.randint(10, (count,), dtype=torch.uint8, generator=generator)
        content[split] = images, labels
        for name, header, values in (
            (f"{split}-images-idx3-ubyte", struct.pack(">4I", 2051, count, 28, 28), images),
            (f"{split}-labels-idx1-ubyte", struct.pack(">2I", 2049, count), labels),
        ):
            (raw / name).write_bytes(header + bytes(values.flatten().tolist()))
            digest = hashlib.md5((raw / name).read_bytes()).hexdigest()
            files[name] = ((raw / name).stat().st_size, digest)
    monkeypatch.setattr(dataset, "MNIST_FILES", files)
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return SimpleNamespace(folder=folder, raw=raw, content=content)


@pytest.fixture
def tiny_stand_in(monkeypatch):
    """Ten grey squares instead of 70,000 rendered digits."""
    squares = torch.full((10, 1, 28, 28), 128, dtype=torch.uint8), torch.arange(10)
    monkeypatch.setattr("standin.render", lambda count, seed: squares)
    return squares
