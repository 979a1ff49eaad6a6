"""Training, evaluation and the log."""

import copy
import datetime
import math
import os
import re

import pytest
import torch
import torch.nn.functional as F
from helpers import HERE, Recorder, masked, numbered_images, plain_logits, run_python
from torch import nn

import model
from augment import augment
from model import LightweightCNN, count_parameters, evaluate, predict, train
from support.threads import one_thread


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
    torch.manual_seed(7)
    network = LightweightCNN()
    history = train(network, images, labels, epochs=2, lr_schedule=lr_schedule, log_interval=3)

    torch.manual_seed(7)
    plain = LightweightCNN()
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain.parameters()]
    expected, step = [], 0
    for _ in range(2):
        losses, hits, order = [], [], torch.randperm(200)
        expected.append([])
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
                row = (batch, sum(losses) / len(losses), 100 * sum(hits) / len(hits))
                expected[-1].append(pytest.approx(row))
    changed = (
        "this test repeats training with its own Adam (lr 0.003, betas 0.9 and 0.999) and "
        "tests/helpers.py the forward pass: if you changed either, change it there as well"
    )
    assert [[tuple(progress) for progress in epoch] for epoch in history] == expected, changed
    # The gradient of a bias before batch norm is 0 up to rounding, which Adam magnifies.
    no_effect = ("conv1.bias", "conv2.bias", "conv3.bias")
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        if name not in no_effect:
            difference = (ours - theirs).abs().max().item()
            assert difference < 1e-6, f"{name}: {changed}"
    for number in (1, 2, 3):
        ours, theirs = (getattr(n, f"bn{number}").running_var for n in (network, plain))
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_every_image_once_in_a_new_random_order():
    """Batches of 32 and the rest, in train mode although the network was in eval mode."""
    network = Recorder().eval()
    modes = []
    network.linear.register_forward_hook(lambda module, *_: modes.append(module.training))
    history = train(network, *numbered_images(100), epochs=2, lr=1e-9)
    assert [len(batch) for batch in network.seen] == [32, 32, 32, 4] * 2
    assert modes == [True] * 8
    assert not network.training, "left in eval mode, ready to use"
    assert [[progress.batch for progress in epoch] for epoch in history] == [[4], [4]]
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
    images = images / 100
    network = Recorder()
    before = copy.deepcopy(network)
    # So small a learning rate that the network hardly changes, so every loss can be recomputed.
    (history,) = train(network, images, labels, lr=1e-9, log_interval=1)
    order = (100 * torch.cat(network.seen)).round().long()
    with torch.no_grad():
        logits = before(images)[order]
    losses = F.cross_entropy(logits, labels[order], reduction="none")
    hits = (logits.argmax(1) == labels[order]).float()
    lines = [line for line in capsys.readouterr().out.splitlines() if ", Batch " in line]
    for progress, line, end in zip(history, lines, (32, 64, 96, 100), strict=True):
        loss, accuracy = losses[:end].mean().item(), 100 * hits[:end].mean().item()
        assert progress.loss == pytest.approx(loss, rel=1e-4)
        assert progress.accuracy == pytest.approx(accuracy, rel=1e-4)
        assert f"Loss: {progress.loss:.4f}, Accuracy: {progress.accuracy:5.2f}%" in line


def test_pixels_become_floats_from_0_to_1():
    """uint8 is divided by 255, in training and in evaluation; floats are taken as they are."""
    grey = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    labels = torch.arange(256) % 10
    for images, expected in (
        (grey, torch.arange(256) / 255),
        (grey / 510, torch.arange(256) / 510),
    ):
        network = Recorder()
        train(network, images, labels)
        assert torch.equal(torch.cat(network.seen).sort().values, expected)
        network.seen.clear()
        predict(network, images)
        assert torch.equal(torch.cat(network.seen), expected)


class BrightnessReader(nn.Module):
    """Predicts every digit correctly, by the brightness of the middle of its image."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        digit = (10 * x[:, 0, 10:18, 10:18].mean((1, 2))).round().long()
        return 100 * F.one_hot(digit, 10) + self.unused


def test_labels_stay_with_their_images():
    """Through the shuffle and the augmentation of `train`."""
    labels = torch.arange(1000) % 10
    images = (labels / 10).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    seen = []

    def transform(x):
        seen.append(x)
        return augment(x, p=1.0)

    ((progress,),) = train(BrightnessReader(), images, labels, transform=transform)
    assert (progress.loss, progress.accuracy) == (0, 100)
    assert len(seen) == 32
    assert all(x.dtype == torch.float32 for x in seen)


def test_loss_that_is_not_finite_stops_before_its_update():
    """The order is known from the seed, so the one bad image tells which batch fails."""
    images, labels = numbered_images(100)
    images = images.clone()
    images[images == 55] = math.nan
    torch.manual_seed(1)
    batch = (torch.randperm(100) == 55).nonzero().item() // 10 + 1
    assert batch > 1, "with a batch before it, the weights have moved"
    network = Recorder()
    torch.manual_seed(1)
    with pytest.raises(FloatingPointError, match=rf"epoch 1, batch {batch}/10: .*not finite"):
        train(network, images, labels, batch_size=10)
    assert len(network.seen) == batch
    assert network.linear.weight.isfinite().all()


def test_unknown_schedule_is_an_error():
    with pytest.raises(ValueError, match=r"one of constant, linear.*, got 'no-such-schedule'"):
        train(Recorder(), *numbered_images(10), lr_schedule="no-such-schedule")


def test_a_schedule_is_one_entry_of_the_table(monkeypatch, few_digits, capsys):
    """The flag, the log and the training follow it: with the factor 0 nothing is learned."""
    monkeypatch.setitem(model.SCHEDULES, "off", lambda done: 0.0)
    network = Recorder()
    before = copy.deepcopy(network.state_dict())
    train(network, *numbered_images(100), lr_schedule="off")
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    model.main(["--lr-schedule", "off"])
    assert "Adam (lr=0.003, off schedule)" in capsys.readouterr().out


@pytest.mark.parametrize("count", [0, 10])
def test_labels_that_do_not_fit_the_images_are_an_error(count):
    """A single label would be compared with every image."""
    images, labels = numbered_images(count)
    for wrong in (labels[:1], labels[:, None], labels[: count // 2]):
        for function in (train, evaluate):
            with pytest.raises(ValueError, match=rf"labels of shape \(N,\), got {count} images"):
                function(Recorder(), images, wrong)


# --- Evaluation -------------------------------------------------------------------------------


def test_evaluate_leaves_the_network_as_it_was(digits):
    """Mode, running statistics and gradients are untouched; the accuracy is that of eval mode."""
    torch.manual_seed(0)
    network = LightweightCNN()
    x, y = digits.test_images[:1500], digits.test_labels[:1500]
    network(x[:500] / 255)  # moves the running statistics from their start
    before = copy.deepcopy(network.state_dict())
    accuracies = []
    for mode in (True, False):
        network.train(mode)
        accuracies.append(evaluate(network, x, y))
        assert network.training is mode
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(p.grad is None for p in network.parameters())
    predicted = predict(network, x)
    assert not predicted.requires_grad
    logits = plain_logits(network.eval(), x / 255)
    torch.testing.assert_close(predicted, logits.detach(), atol=1e-5, rtol=0)
    expected = 100 * (logits.argmax(1) == y).double().mean().item()
    assert accuracies == [pytest.approx(expected, abs=0.1)] * 2


def test_predict_restores_the_mode_after_an_error():
    network = LightweightCNN().train()
    with pytest.raises(RuntimeError):
        predict(network, torch.rand(4, 3, 28, 28))
    assert network.training


def test_accuracy_in_the_log_is_over_all_test_images(few_digits, tmp_path, capsys):
    """Not only the last batch; and each epoch's is measured with that epoch's weights."""
    path = tmp_path / "weights.pt"
    model.main(["--epochs", "2", "--save-model", str(path)])
    network = LightweightCNN()
    network.load_state_dict(torch.load(path, weights_only=True))
    correct = predict(network, few_digits.test_images).argmax(1) == few_digits.test_labels
    log = capsys.readouterr().out.splitlines()
    after_epochs = [line for line in log if " test accuracy: " in line]
    assert [masked(line) for line in after_epochs] == [
        f"[time] Epoch {epoch} test accuracy: ##.##%" for epoch in (1, 2)
    ]
    assert len({line.split()[-1] for line in after_epochs}) == 2
    assert after_epochs[-1].endswith(f": {correct.sum()}.00%")
    assert re.search(rf"Accuracy on 100 .*test images: {correct.sum()}\.00%$", log[-1])


# --- Same seed, same weights ------------------------------------------------------------------


def trained(digits, seed=42, **options):
    """The weights of a network built and trained as README shows it."""
    torch.manual_seed(seed)
    network = LightweightCNN()
    train(network, digits.images, digits.labels, **options)
    return network.state_dict()


def test_train_gives_the_weights_of_model_py(few_digits, tmp_path):
    """Also in a script or notebook, where torch has several threads; it has them afterwards too."""
    path = tmp_path / "weights.pt"
    model.main(["--augment", "--save-model", str(path)])
    expected = torch.load(path, weights_only=True)
    threads = torch.get_num_threads()
    try:
        for count in (2, 3):
            torch.set_num_threads(count)
            weights = trained(few_digits, transform=augment)
            assert torch.get_num_threads() == count
            assert all(torch.equal(weights[key], expected[key]) for key in expected)
    finally:
        torch.set_num_threads(threads)


def test_training_and_prediction_use_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    network, used = Recorder(), []
    network.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        train(network, *numbered_images(10))
        predict(network, numbered_images(10)[0])
    finally:
        torch.set_num_threads(threads)
    assert used == [1, 1]


def test_threads_are_given_back_after_an_error():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(ZeroDivisionError), one_thread():
            assert torch.get_num_threads() == 1
            1 / 0  # noqa: B018
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("setting", "expected"), [("2", 3), ("", 1), (None, 1)])
def test_threads_the_user_asks_for_are_kept(monkeypatch, setting, expected):
    """torch itself reads OMP_NUM_THREADS; empty, it counts as not set."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with one_thread():
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(threads)


def test_weights_do_not_depend_on_the_number_of_cores(few_digits, tmp_path):
    """`model.main` on one core gives those of this process, where the system can restrict it.

    Also, it imports nothing that only drawing, rendering and downloads need.
    """
    model.main(["--save-model", str(tmp_path / "all.pt")])
    torch.save([tensor.clone() for tensor in few_digits[:4]], tmp_path / "digits.pt")
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    done = run_python(HERE / "tests" / "run_on_one_core.py", tmp_path, env=environment)
    assert done.stdout.endswith("not needed: set()\n"), done.stderr
    every, one = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("all", "one"))
    assert all(torch.equal(every[key], one[key]) for key in every)


# --- The log ----------------------------------------------------------------------------------

HUNDREDS, THOUSANDS = range(100, 1000, 100), range(1000, 1875, 100)


def test_log_is_the_documented_one(default_run, digits):
    """Line for line and column for column."""
    start, kind = "Starting MNIST Training", "test images"
    if digits.source == "rendered":
        start = "Starting Training on rendered digits, NOT on MNIST"
        kind = "rendered test images"
    elif digits.source != "mnist":
        start = f"Starting Training on {digits.source}"
    assert [masked(line) for line in default_run.lines] == [
        f"[time] {start}",
        f"[time] Model initialized with {count_parameters(LightweightCNN()):,} parameters",
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
        f"[time] Accuracy on 10,000 {kind}: ##.##%",
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
    """The log shows what the flags change; "first epoch" stays the first of two."""
    flags = ["--epochs", "2", "--batch-size", "100", "--lr", "0.01", "--lr-schedule", "linear"]
    model.main([*flags, "--log-interval", "3", "--augment"])
    log = capsys.readouterr().out.splitlines()
    assert log[3:9] == [
        "  - Device: cpu",
        "  - Optimizer: Adam (lr=0.01, linear schedule)",
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
