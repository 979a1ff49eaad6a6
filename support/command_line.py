"""What the scripts share: types of flags, files that appear whole, exit status."""

import argparse
import contextlib
import io
import math
import os
import secrets
import stat
import sys
import tempfile
from pathlib import Path

from support.dataset import SOURCES
from support.digits import DataError


class ArgumentParser(argparse.ArgumentParser):
    """Like argparse's, but help shows every default that is a value."""

    def add_argument(self, *names, **options):
        if options.get("default") not in (None, argparse.SUPPRESS):
            options["help"] += " (default: %(default)s)"
        return super().add_argument(*names, **options)


# --- Types of flags: argparse turns a ValueError into "invalid positive_int value: 'x'" ---------


def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return value


def seed(text):
    value = int(text)
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**64 - 1, got {text!r}")
    return value


def learning_rate(text):
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be finite and above 0, got {text!r}")
    return value


def dataset_name(text):
    """A name in SOURCES: a type, because choices= does not check the environment's value."""
    if text not in SOURCES:
        raise argparse.ArgumentTypeError(
            f"(or MNIST_DATASET) must be one of {', '.join(SOURCES)}, got {text!r}"
        )
    return text


def output_file(text):
    """The Path of a regular file that can be written: a bad path is found before the work.

    A symbolic link stands for the file that it points to. An existing file is not changed.
    """
    try:
        path = Path(text).expanduser().resolve()
        if path.is_dir() or text.endswith(("/", os.sep)):
            raise argparse.ArgumentTypeError(f"{text!r} is a folder; add the name of a file")
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.stat().st_mode):
                raise argparse.ArgumentTypeError(f"{text!r} is not a regular file")
            path.open("r+b").close()  # Tried, since os.access() is unreliable.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text}: {error.strerror}") from error
    return path


def picture_file(text):
    """Like output_file, for .png, .pdf or .svg."""
    if Path(text).suffix.lower() not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"must end in .png, .pdf or .svg, got {text!r}")
    return output_file(text)


def add_dataset_flags(parser):
    """Add `--dataset` and `--data-dir`; the environment sets their defaults."""
    parser.add_argument(
        "--dataset",
        type=dataset_name,
        default=os.environ.get("MNIST_DATASET") or "auto",
        metavar="{" + ",".join(SOURCES) + "}",
        help="auto: MNIST or, if it is absent and cannot be downloaded, a warning and rendered "
        "digits; mnist: MNIST or an error; rendered: digits drawn from fonts. $MNIST_DATASET sets "
        "the default",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder that contains MNIST/raw (default: $MNIST_DATA_DIR, or data beside model.py)",
    )


# --- Files, exit status -----------------------------------------------------------------------


def write_whole(path, content):
    """Write bytes to `path`, whole or not at all. Raises OSError."""
    part = path.with_name(f"{path.name[:40]}.{secrets.token_hex(8)}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def write_picture(path, draw, *args):
    """Write the matplotlib Figure that `draw(*args)` returns, in the format that `path` ends in.

    It is drawn with matplotlib's defaults, whatever the user's settings are. Raises OSError.
    """
    import matplotlib.style  # It takes a second to import, and training never draws.

    picture = io.BytesIO()
    with matplotlib.style.context("default"):
        draw(*args).savefig(picture, format=path.suffix[1:].lower())
    write_whole(path, picture.getvalue())


def run(main, argv=None):
    """Run `main(argv)` and return the status that its process should exit with.

    0: done. 1: unusable data, a loss that is not finite, too little memory, or a file that cannot
    be written; stderr says which in one line. 130: Ctrl-C. 141: the output pipe was closed, as by
    `| head -3`. argparse exits with 2 by itself.
    """
    if hasattr(sys.stdout, "reconfigure"):  # IDLE's has not.
        sys.stdout.reconfigure(errors="replace")  # A terminal may lack some letters of a path.
    try:
        main(argv)
        print(end="", flush=True)  # Here, not at exit, an error can still be reported.
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141
    except (DataError, FloatingPointError, OSError, MemoryError, RuntimeError) as error:
        # torch has no class of its own for memory that the processor cannot have.
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            error = "out of memory"
        elif isinstance(error, RuntimeError):
            raise
        text = " ".join(str(error).split())  # one line, whatever a path or a library puts into it
        print(f"{Path(sys.argv[0]).name}: error: {text}", file=sys.stderr)
        return 1
    return 0
