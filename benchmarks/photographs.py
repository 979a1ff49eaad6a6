"""Real photographs of digits by strangers, which photographs.csv lists."""

import csv
import hashlib
import http.client
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))

from own_digit import read_picture

from support.digits import DataError, warn

LIST = Path(__file__).with_name("photographs.csv")
SERVER = "https://raw.githubusercontent.com"


def fetch(data_dir):
    """Return the photographs of LIST that are available: a list of their files and their digits.

    Each is downloaded once into `data_dir`/photographs, under the name of its SHA-256, which is
    checked every time. A warning names those that cannot be had.

    Raises:
        DataError: none is available.
    """
    folder = data_dir / "photographs"
    with LIST.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    available, missing = [], []
    for number, row in enumerate(rows, start=1):
        path = folder / row["sha256"]
        url = "/".join((SERVER, row["repository"], row["commit"], urllib.parse.quote(row["path"])))
        try:
            if path.exists():
                content = path.read_bytes()
            else:
                print(f"photograph {number}/{len(rows)}", file=sys.stderr)
                with urllib.request.urlopen(url, timeout=30) as response:  # seconds
                    content = response.read()
            if hashlib.sha256(content).hexdigest() != row["sha256"]:
                raise ValueError("its SHA-256 is wrong")
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".part").write_bytes(content)  # Ctrl-C leaves no broken picture.
                path.with_suffix(".part").replace(path)
            available.append((path, int(row["digit"])))
        except (OSError, ValueError, http.client.HTTPException) as error:
            missing.append(f"{url} as {path} ({error})")
    if not available:
        raise DataError(f"none of {len(rows)} photographs is available, such as {missing[0]}")
    if missing:
        warn(f"{len(missing)} of {len(rows)} photographs are not available: {', '.join(missing)}")
    return available


def read(available):
    """Return the digits on photographs, as `fetch` returns them, and how many are refused.

    Returns:
        uint8 `(N, 1, 28, 28)`, int64 `(N,)`, and a number.
    """
    images, labels = [], []
    for path, digit in available:
        try:
            images.append(read_picture(path))
            labels.append(digit)
        except DataError as error:
            print(error, file=sys.stderr)
    return torch.cat(images), torch.tensor(labels), len(available) - len(labels)
