"""Training, evaluation and the log."""

import copy
import datetime
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import Recorder, masked, numbered_images, plain_logits
from torch import nn

import model
from augment import augment
from command_line import use_one_thread
from model import LightweightCNN, evaluate, predict, train, train_epoch

HERE = Path(__file__).resolve().parent.parent


@pytest.fixture
def float64():
    """Rounding becomes so small that a training run can be compared with another form of it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# --- Training against a plainly written loop ----------------------------------------------------


@pytest.mark.parametrize("lr_schedule", ["constant", "linear"])
def test_train_equals_the_plain_loop(float64, lr_schedule):
    """Two epochs of 7 batches, the last one short: weights, statistics and history to 1e-6.

    The loop has its own forward pass and its own Adam, by the formulas of Kingma and Ba (2015).
    """
    images = torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 10
    network, history = train(
        images, labels, epochs=2, lr_schedule=lr_schedule, seed=7, log_interval=3
    )

    torch.manual_seed(7)
    plain = LightweightCNN()
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain.parameters()]
    expected, step = [], 0
    for epoch in (1, 2):
        losses, hits, order = [], [], torch.randperm(200)
        for batch in range(1, 8):
            index = order[32 * (batch - 1) : 32 * batch]
            logits = plain_logits(plain, images[index])
            loss = -logits.log_softmax(1)[torch.arange(len(index)), labels[index]]  # (B,)
            gradients = torch.autograd.grad(loss.mean(), list(plain.parameters()))
            lr = 0.003 * (1 - step / 14 if lr_schedule == "linear" else 1)
            step += 1
            with torch.no_grad():
                for p, g, (m, v) in zip(plain.parameters(), gradients, moments, strict=True):
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g**2)
                    p -= lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            losses += loss.tolist()
            hits += (logits.argmax(1) == labels[index]).tolist()
            if batch in (3, 6, 7):
                expected.append(
                    (epoch, batch, sum(losses) / len(losses), 100 * sum(hits) / len(hits))
                )
    assert [tuple(progress) for progress in history] == [pytest.approx(row) for row in expected]
    # The gradient of a bias before batch norm is 0 but for rounding, which Adam blows up.
    no_effect = ("conv1.bias", "conv2.bias", "conv3.bias")
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        if name not in no_effect:
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0, msg=name)
    for number in (1, 2, 3):
        ours, theirs = (getattr(n, f"bn{number}").running_var for n in (network, plain))
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_every_image_once_in_a_new_random_order():
    """Batches of 32 and the rest, in train mode."""
    images, labels = numbered_images(100)
    network = Recorder().eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    for _ in range(2):
        train_epoch(network, images, labels, optimizer)
    assert network.training
    assert [len(batch) for batch in network.seen] == [32, 32, 32, 4] * 2
    first, second = torch.cat(network.seen).long().view(2, 100)
    in_order = torch.arange(100)
    assert torch.equal(first.sort().values, in_order)
    assert torch.equal(second.sort().values, in_order)
    # The chance that a shuffle leaves 20 of 100 in place is below 1e-18.
    assert (first == in_order).sum() < 20
    assert (first == second).sum() < 20


def test_history_and_log_hold_running_means(capsys):
    """After every batch, loss and accuracy over all images of the epoch so far."""
    images, labels = numbered_images(100)
    network = Recorder()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)  # so every loss can be had again
    history = train_epoch(network, images, labels, optimizer, log_interval=1)
    order = torch.cat(network.seen).long()
    with torch.no_grad():
        logits = network(images)[order]
    losses = F.cross_entropy(logits, labels[order], reduction="none")
    hits = (logits.argmax(1) == labels[order]).float()
    lines = capsys.readouterr().out.splitlines()
    for progress, line, end in zip(history, lines, (32, 64, 96, 100), strict=True):
        loss, accuracy = losses[:end].mean().item(), 100 * hits[:end].mean().item()
        assert progress.loss == pytest.approx(loss, rel=1e-4)
        assert progress.accuracy == pytest.approx(accuracy, rel=1e-4)
        assert f"Loss: {progress.loss:.4f}, Accuracy: {progress.accuracy:5.2f}%" in line


def test_pixels_become_floats_from_0_to_1():
    """uint8 over 255 exactly, in training and in evaluation; floats pass as they are."""
    grey = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    labels = torch.arange(256) % 10
    for images, expected in (
        (grey, torch.arange(256) / 255),
        (grey / 510, torch.arange(256) / 510),
    ):
        network = Recorder()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
        train_epoch(network, images, labels, optimizer)
        assert torch.equal(torch.cat(network.seen).sort().values, expected)
        network.seen.clear()
        predict(network, images)
        assert torch.equal(torch.cat(network.seen), expected)


class BrightnessReader(nn.Module):
    """Reads a digit off the brightness of the middle of its image, without fail."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        digit = (10 * x[:, 0, 10:18, 10:18].mean((1, 2))).round().long()
        return 100 * F.one_hot(digit, 10) + self.unused


def test_labels_stay_with_their_images():
    """Through the shuffle and the augmentation of `train_epoch`."""
    labels = torch.arange(1000) % 10
    images = (labels / 10).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    network = BrightnessReader()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    seen = []

    def transform(x):
        seen.append(x)
        return augment(x, p=1.0)

    history = train_epoch(network, images, labels, optimizer, transform=transform)
    assert (history[-1].loss, history[-1].accuracy) == (0, 100)
    assert len(seen) == 32
    assert all(x.dtype == torch.float32 for x in seen)


def test_loss_that_is_not_finite_stops_before_its_update():
    """Batches come in random order, so the only bad image marks its batch by itself."""
    images, labels = numbered_images(100)
    images = images.clone()
    images[images == 55] = math.nan
    torch.manual_seed(1)
    batch = (torch.randperm(100) == 55).nonzero().item() // 10 + 1
    assert batch > 1, "with a batch before it, the weights have moved"
    network = Recorder()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    torch.manual_seed(1)
    with pytest.raises(FloatingPointError, match=rf"epoch 3, batch {batch}/10: .*not finite"):
        train_epoch(network, images, labels, optimizer, epoch=3, batch_size=10)
    assert len(network.seen) == batch
    assert network.linear.weight.isfinite().all()


def test_unknown_schedule_is_an_error():
    with pytest.raises(ValueError, match="constant or linear"):
        train(*numbered_images(10), lr_schedule="cosine")


# --- Evaluation -------------------------------------------------------------------------------


def test_evaluate_leaves_the_network_as_it_was(digits):
    """Mode, running statistics and gradients are untouched; the accuracy is that of eval mode."""
    torch.manual_seed(0)
    network = LightweightCNN()
    x, y = digits.test_images[:1500], digits.test_labels[:1500]
    network(x[:500] / 255)  # gives the running statistics something to be
    before = copy.deepcopy(network.state_dict())
    accuracies = []
    for mode in (True, False):
        network.train(mode)
        accuracies.append(evaluate(network, x, y))
        assert network.training is mode
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(p.grad is None for p in network.parameters())
    logits = plain_logits(network.eval(), x / 255)
    torch.testing.assert_close(predict(network, x), logits.detach(), atol=1e-5, rtol=0)
    expected = 100 * (logits.argmax(1) == y).double().mean().item()
    assert accuracies == [pytest.approx(expected, abs=0.1)] * 2


# --- Same seed, same weights ------------------------------------------------------------------


def test_same_seed_same_weights(digits):
    """Bit for bit, whatever torch's generator was before; another seed gives other weights."""
    few = digits.images[:320], digits.labels[:320]
    first, again, by_default, other = (
        train(*few, transform=augment, **seed)[0].state_dict()
        for seed in ({"seed": 42}, {"seed": 42}, {}, {"seed": 43})
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.equal(first[key], by_default[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


ON_CORES = """if True:
    import os, sys
    count, folder = int(sys.argv[1]), sys.argv[2]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    import torch
    import model
    digits = torch.load(f"{folder}/digits.pt")
    model.load_digits = lambda train, *_: (*digits, "rendered")
    model.main(["--save-model", f"{folder}/{count}.pt"])
    print("threads:", torch.get_num_threads())
    print("unneeded:", {"matplotlib", "torchvision", "PIL"} & set(sys.modules))
"""


def test_weights_do_not_depend_on_the_number_of_cores(digits, tmp_path):
    """`model.main` on one core and on two, where the system can restrict it: one thread on both.

    Also, it imports nothing that only drawing, rendering and downloads need.
    """
    torch.save((digits.images[:960].clone(), digits.labels[:960].clone()), tmp_path / "digits.pt")
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ON_CORES, str(count), tmp_path],
            cwd=HERE,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for count in (1, 2)
    ]
    for process in processes:
        stdout, _ = process.communicate(timeout=300)
        assert stdout.endswith("threads: 1\nunneeded: set()\n")
    one, two = (torch.load(tmp_path / f"{count}.pt", weights_only=True) for count in (1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_threads_the_user_asks_for_are_kept(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    use_one_thread()
    assert asked == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    use_one_thread()
    assert asked == [1]


# --- The log ----------------------------------------------------------------------------------

HUNDREDS, THOUSANDS = range(100, 1000, 100), range(1000, 1875, 100)


def test_log_is_the_documented_one(default_run, digits):
    """Line for line and column for column."""
    start, kind = "Starting MNIST Training", "test images"
    if digits.source != "mnist":
        start = "Starting Training on rendered stand-in digits, NOT on MNIST"
        kind = "rendered digits"
    assert [masked(line) for line in default_run.lines] == [
        f"[time] {start}",
        "[time] Model initialized with 10,982 parameters",
        "[time] Training configuration:",
        "  - Device: cpu",
        "  - Optimizer: Adam (lr=0.003)",
        "  - Loss: CrossEntropyLoss",
        "  - Batch size: 32",
        "  - Total batches per epoch: 1875",
        "[time] Starting Epoch 1",
        *(f"[time] Epoch 1, Batch {b}/1875,  Loss: #.####, Accuracy: ##.##%" for b in HUNDREDS),
        *(f"[time] Epoch 1, Batch {b}/1875, Loss: #.####, Accuracy: ##.##%" for b in THOUSANDS),
        "[time] Epoch 1 completed - Final Loss: #.####, Final Accuracy: ##.##%",
        "[time] Training completed!",
        "[time] Final first epoch accuracy: ##.##%",
        f"[time] Accuracy on 10,000 held-out {kind}: ##.##%",
    ]
    assert default_run.stderr == ""
    loss = [float(m[1]) for m in re.finditer(r"Loss: (\d\.\d{4}),", "\n".join(default_run.lines))]
    assert loss == sorted(loss, reverse=True), "the running mean of the loss falls all the time"


def test_log_clock_is_ist_in_another_time_zone(default_run):
    """The host was in New York; the last lines are stamped when they are written."""
    ist = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    stamps = [
        datetime.datetime.strptime(line[1:20], "%Y-%m-%d %H:%M:%S").replace(tzinfo=ist)
        for line in default_run.lines
        if line.startswith("[")
    ]
    assert stamps == sorted(stamps)
    assert default_run.started - 1 <= stamps[0].timestamp()
    assert stamps[-1].timestamp() <= default_run.ended


def test_log_of_other_flags(few_digits, capsys):
    """What the flags change is what the log says; the first epoch's accuracy stays the first's."""
    flags = ["--epochs", "2", "--batch-size", "100", "--lr", "0.01", "--lr-schedule", "linear"]
    model.main([*flags, "--log-interval", "3", "--augment"])
    log = capsys.readouterr().out.splitlines()
    assert log[3:9] == [
        "  - Device: cpu",
        "  - Optimizer: Adam (lr=0.01, linear decay to 0)",
        "  - Loss: CrossEntropyLoss",
        "  - Batch size: 100",
        "  - Total batches per epoch: 4",
        "  - Transform: augment",
    ]
    assert [masked(line) for line in log if ", Batch " in line] == [
        f"[time] Epoch {epoch}, Batch 3/4, Loss: #.####, Accuracy: ##.##%" for epoch in (1, 2)
    ]
    first, second = (
        re.search(r"completed .* (\S+)$", line)[1] for line in log if "completed -" in line
    )
    assert first != second
    assert log[-2].endswith(f"Final first epoch accuracy: {first}")
