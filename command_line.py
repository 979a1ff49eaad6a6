"""What the scripts here share on the command line: flags, their checks, files, exit status."""

import argparse
import io
import math
import os
import sys
import tempfile
from pathlib import Path

import torch

from dataset import DATASETS, DataError


def use_one_thread():
    """Keep torch to one thread unless `OMP_NUM_THREADS` is set.

    So small a network gains little from a second. It loses a lot where another process keeps a core
    busy, because each operation waits for its slowest thread; and its sums, so its weights, would
    depend on the number of cores.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def seed(text):
    value = int(text)
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**64 - 1, got {text}")
    return value


def learning_rate(text):
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be finite and above 0, got {text}")
    return value


def dataset_name(text):
    """A name in DATASETS: a type, because choices= would not check the environment's value."""
    if text not in DATASETS:
        raise argparse.ArgumentTypeError(
            f"(or MNIST_DATASET) must be one of {', '.join(DATASETS)}, got {text!r}"
        )
    return text


def output_file(text):
    """The Path of a file that can be written: a bad path is found before the work, not after it."""
    path = Path(text).absolute()
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{path} is not a regular file")
    try:  # os.access() would not tell on every system.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"cannot write in folder {path.parent}: {error.strerror}"
        ) from error
    return path


def picture_file(text):
    """The same for a picture, whose suffix names its format."""
    if Path(text).suffix.lower() not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"must end in .png, .pdf or .svg, got {text}")
    return output_file(text)


def add_dataset_flags(parser):
    """Add `--dataset` and `--data-dir`; the environment sets their defaults."""
    parser.add_argument(
        "--dataset",
        type=dataset_name,
        default=os.environ.get("MNIST_DATASET") or "auto",
        metavar="{" + ",".join(DATASETS) + "}",
        help="genuine MNIST, rendered stand-in digits, or MNIST if it can be had; "
        "$MNIST_DATASET sets the default",
    )
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("MNIST_DATA_DIR") or "data",
        metavar="DIR",
        help="folder that holds or gets MNIST/raw, seen from the folder of the scripts; "
        "$MNIST_DATA_DIR sets the default",
    )


def write_whole(path, content):
    """Write bytes to `path`, whole or not at all; raises OSError if that is not possible."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            unfinished = Path(folder, path.name)
            unfinished.write_bytes(content)
            unfinished.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


def write_figure(path, figure):
    """Write a matplotlib Figure in the format that the suffix of `path` names, as write_whole."""
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:])
    write_whole(path, picture.getvalue())


def exit_status(main, argv=None):
    """Run `main(argv)` and return the status that its process should exit with.

    0: done. 1: unusable data, a loss that is not finite, or a file that cannot be written; stderr
    says which in one line. 130: Ctrl-C. 141: the output pipe was closed, as by `| head -3`.
    argparse exits with 2 by itself.
    """
    sys.stdout.reconfigure(errors="replace")  # A path may hold what the terminal cannot show.
    try:
        main(argv)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141
    except (DataError, FloatingPointError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 1
    return 0
