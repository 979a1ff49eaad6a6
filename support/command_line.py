"""What the scripts share: types of flags, files that appear whole, exit status."""

import argparse
import contextlib
import errno
import io
import math
import os
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import warnings
from pathlib import Path

from support.dataset import SOURCES, default_dataset
from support.digits import DataError

EXIT_STATUS = """Exit status: 0 done; 1 unusable data or pictures, training that diverges, too
little memory or a full disk; 2 wrong usage or a path that cannot be written; 130 Ctrl-C; 141 closed
output pipe, as by `| head`. An error is one line on stderr; wrong usage prints the usage before
it."""


class ArgumentParser(argparse.ArgumentParser):
    """Like argparse's, but help shows every default that is a value, and the exit status."""

    def __init__(self, **options):
        super().__init__(epilog=EXIT_STATUS, **options)

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

    An existing file is not changed.
    """
    try:
        path = Path(text).expanduser()  # a RuntimeError if "~user" is nobody
        if path.is_dir() or text.endswith(("/", os.sep)):
            raise argparse.ArgumentTypeError(f"{text!r} is a folder; add the name of a file")
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.stat().st_mode):
                raise argparse.ArgumentTypeError(f"{text!r} is not a regular file")
            path.open("r+b").close()  # Tried, since os.access() is unreliable.
        tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", error)
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
        default=default_dataset(),
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
    """Write bytes to `path`, whole or not at all, and say so on stdout. Raises OSError."""
    target = path.resolve()  # A symbolic link stays, and the file that it points to is written.
    part = target.with_name(f"{target.name[:40]}.{secrets.token_hex(8)}.part")
    try:
        part.write_bytes(content)
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, part)
        part.replace(target)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    print(f"wrote {path}")


def write_picture(path, draw, *args):
    """Write the matplotlib Figure that `draw(*args)` returns, in the format that `path` ends in.

    It is drawn with matplotlib's defaults, whatever the user's settings are. Raises OSError.
    """
    import matplotlib.style  # It is slow to import, and training never draws.

    picture = io.BytesIO()
    with matplotlib.style.context("default"), warnings.catch_warnings():
        # matplotlib's font lacks some alphabets, and draws a box for each letter of a name in them.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        draw(*args).savefig(picture, format=path.suffix[1:].lower())
    write_whole(path, picture.getvalue())


def fail(error):
    """Print `error` as one line on stderr, whatever a path or a library put into it; return 1."""
    text = " ".join(str(error).split())
    print(f"{Path(sys.argv[0]).name}: error: {text}", file=sys.stderr)
    return 1


def run(main, argv=None):
    """Run `main(argv)` and return the status with which its process should exit; see EXIT_STATUS.

    `main` returns None or a status. Mistakes in the code end in a traceback.
    """
    if hasattr(sys.stdout, "reconfigure"):  # IDLE's has not.
        sys.stdout.reconfigure(errors="replace")  # A terminal may lack some letters of a path.
    try:
        status = main(argv)
        print(end="", flush=True)  # Here, not at exit, an error can still be reported.
        return status or 0
    except KeyboardInterrupt:
        if os.name == "posix":  # A shell ends its loop only if a signal has ended the process.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        return 130
    except MemoryError:
        return fail("out of memory")
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):  # torch has no class of its own for it.
            return fail("out of memory")
        raise
    except (DataError, FloatingPointError) as error:
        return fail(error)
    except OSError as error:
        # Windows may say EINVAL of a closed pipe (python/cpython#79935), which has no file name.
        windows = os.name == "nt" and error.errno == errno.EINVAL and error.filename is None
        if isinstance(error, BrokenPipeError) or windows:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
            return 141
        return fail(error)
