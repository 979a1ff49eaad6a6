"""Files that appear whole or not at all, and paths that are checked before the work starts."""

import secrets
import shutil
from pathlib import Path


def expand_user(path):
    """Return `path` as a Path, with a leading `~` replaced by the home folder if there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # `~name` where nobody has that name
        return Path(path)


def check_writable(path):
    """Raise OSError if no file can be written at `path`, or the one there cannot be replaced.

    This is tried, as os.access() is unreliable: it creates a file and removes it again, and opens
    an existing one for writing without changing it.
    """
    probe = path
    if path.exists():
        if not path.is_file():
            kind = "a folder; add the name of a file" if path.is_dir() else "not a regular file"
            raise OSError(f"{path} is {kind}")
        path.open("r+b").close()
        probe = unfinished(path)
    probe.open("xb").close()
    probe.unlink()


def unfinished(path):
    """Return a name beside `path` that no other file has. It is short, whatever `path` is."""
    return path.with_name(f"{path.name[:40]}.{secrets.token_hex(8)}.part")


def write_whole(path, content):
    """Write bytes to `path`, whole or not at all. An existing file keeps its mode.

    Raises:
        OSError: the file cannot be written. If the content was complete and only `path` could not
            be replaced, the content stays beside it, and the error names that file.
    """
    part = unfinished(path)
    try:
        with part.open("xb") as file:
            file.write(content)
        if path.exists():
            shutil.copymode(path, part)
    except BaseException as error:  # Ctrl-C too
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
        raise
    try:
        part.replace(path)
    except OSError as error:
        raise OSError(
            f"{path} cannot be replaced: {error.strerror or error}; the new content is in {part}"
        ) from error
