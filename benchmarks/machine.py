"""The processor that a benchmark ran on. It must not import torch: see speed.py."""

import platform
from pathlib import Path


def processor():
    """Return the processor's name and model number, which Linux keeps in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # macOS, Windows
        return platform.processor()
    fields = [line.partition(":") for line in lines]
    values = {name.strip(): value.strip() for name, _, value in fields}
    return f"{values.get('model name', platform.machine())} model {values.get('model', 'unknown')}"
