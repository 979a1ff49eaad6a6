"""What the scripts share on the command line: flags and their checks, pictures, exit status."""

import argparse
import contextlib
import errno
import io
import math
import os
import sys
from pathlib import Path

from support.dataset import SOURCES, DataError
from support.files import check_writable, expand_user, write_whole


class ArgumentParser(argparse.ArgumentParser):
    """Like argparse's, but help shows every default that is a value; errors are one line."""

    def add_argument(self, *names, **options):
        if options.get("default") not in (None, argparse.SUPPRESS):
            options["help"] += " (default: %(default)s)"
        return super().add_argument(*names, **options)

    def error(self, message):
        super().error(one_line(message))


def one_line(text):
    """Return `text` with line breaks, as a path may contain them, written as backslash and n."""
    return "\\n".join(str(text).splitlines())


# --- Types of flags ---------------------------------------------------------------------------


def number(kind, description, text):
    """Return `kind(text)`, int or float, with an error that says what was wanted."""
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be {description}, got {text!r}") from error


def positive_int(text):
    value = number(int, "a whole number", text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return value


def seed(text):
    value = number(int, "a whole number", text)
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**64 - 1, got {text!r}")
    return value


def learning_rate(text):
    value = number(float, "a number", text)
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
    """The Path of a file that can be written: a bad path is found before the work, not after it.

    A symbolic link stands for the file that it points to.
    """
    if not text or text.endswith(("/", os.sep)):
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; add the name of a file")
    try:
        path = expand_user(text).resolve()
        check_writable(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"cannot write {text}: {reason}") from error
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
        default=os.environ.get("MNIST_DATA_DIR") or "data",
        metavar="DIR",
        help="folder that contains MNIST/raw; a relative path is relative to the folder of "
        "model.py. $MNIST_DATA_DIR sets the default",
    )


# --- Pictures and exit status -----------------------------------------------------------------


def write_picture(path, draw, *args):
    """Write the matplotlib Figure that `draw(*args)` returns, in the format that `path` ends in.

    It is drawn with matplotlib's defaults, whatever the user's settings are. Raises OSError.
    """
    import matplotlib.style  # It takes a second to import, and training never draws.

    picture = io.BytesIO()
    with matplotlib.style.context("default"):
        draw(*args).savefig(picture, format=path.suffix[1:].lower())
    write_whole(path, picture.getvalue())


def is_closed_pipe(error):
    """Tell whether nobody reads our output any more. Windows says EINVAL (cpython issue 79935)."""
    return isinstance(error, BrokenPipeError) or (
        sys.platform == "win32" and error.errno == errno.EINVAL and error.filename is None
    )


def exit_status(main, argv=None):
    """Run `main(argv)` and return the status that its process should exit with.

    0: done. 1: unusable data, a loss or weights that are not finite, too little memory, or a file
    that cannot be written; stderr says which in one line. 130: Ctrl-C. 141: the output pipe was
    closed, as by `| head -3`. argparse exits with 2 by itself.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, or a program without a console
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(errors="replace")  # A terminal may lack some letters of a path.
    if "ipykernel" not in sys.modules:
        # matplotlib checks this variable on import. To write files, any backend will do; but a
        # notebook goes on to use its own.
        os.environ["MPLBACKEND"] = "agg"
    try:
        main(argv)
        sys.stdout.flush()  # Here, not at exit, an error can still be reported.
    except KeyboardInterrupt:
        return 130
    except (DataError, FloatingPointError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, OSError) and is_closed_pipe(error):
            with contextlib.suppress(OSError):  # A stream without a file needs no such care.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for exit's flush
            return 141
        # torch has no class of its own for memory that the processor cannot have.
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            error = "out of memory"
        elif isinstance(error, RuntimeError):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0
