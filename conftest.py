"""What a test module cannot say itself: pytest's `--dataset` switch, and which digits it gave."""

import os

import pytest

from dataset import DATASETS

SOURCE = pytest.StashKey[str]()


def pytest_addoption(parser):
    parser.addoption(
        "--dataset",
        choices=DATASETS,
        default=os.environ.get("MNIST_DATASET") or "auto",
        help="digits that the tests train on (default: $MNIST_DATASET or auto)",
    )


def pytest_terminal_summary(terminalreporter, config):
    source = config.stash.get(SOURCE, None)
    if source is not None:
        terminalreporter.section("digits")
        terminalreporter.write_line(
            "The tests trained on genuine MNIST."
            if source == "mnist"
            else "The tests trained on RENDERED STAND-IN DIGITS, not on MNIST."
        )
