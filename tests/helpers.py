"""An oracle, the form of the log, and processes for the tests."""

import re
import subprocess
import sys

import torch
import torch.nn.functional as F

from support.digits import ROOT

CHANGED_LAYER = "if you changed a layer, change forward_by_formulas() in tests/helpers.py, too"


def forward_by_formulas(network, x):
    """The forward pass of the specification: activation before the pool, by formulas."""
    for number in (1, 2, 3):
        conv, bn = getattr(network, f"conv{number}"), getattr(network, f"bn{number}")
        x = F.conv2d(x, conv.weight, conv.bias, padding=1)
        x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, network.training)
        x = F.max_pool2d(torch.where(x > 0, x, 0.1 * x), 2)
    x = F.dropout(x.reshape(len(x), -1), 0.1, network.training)
    x = x @ network.fc1.weight.T + network.fc1.bias
    return torch.where(x > 0, x, 0.1 * x) @ network.fc2.weight.T + network.fc2.bias


def masked(line):
    """A line of the log with time, loss and accuracy blanked out, its columns kept."""
    line = re.sub(r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d IST\]", "[time]", line)
    line = re.sub(r"Loss: \d\.\d{4}", "Loss: #.####", line)
    return re.sub(r": (1\d| |)\d\d?\.\d\d%", ": ##.##%", line)


def run_python(*arguments, **options):
    """Run Python to its end and return the CompletedProcess, with its output as text."""
    options = {"cwd": ROOT, "capture_output": True, "text": True, "check": False} | options
    return subprocess.run([sys.executable, *map(str, arguments)], **options)
