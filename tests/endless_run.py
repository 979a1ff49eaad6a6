"""`python model.py` on a million grey images, for tests that end it: flags as for model.py."""

import signal
import sys

import torch

import model
from support.command_line import exit_status
from support.dataset import Digits

# A background job of a shell ignores Ctrl-C, and so would this process as its child.
signal.signal(signal.SIGINT, signal.default_int_handler)
images = torch.zeros(1, 1, 28, 28, dtype=torch.uint8).expand(1_000_000, -1, -1, -1)
labels = torch.zeros(1_000_000, dtype=torch.long)
digits = Digits(images, labels, images[:100], labels[:100], "rendered")
model.load_digits = lambda *_: digits
sys.exit(exit_status(model.main))
