"""Training, evaluation and export."""

import copy

import pytest
import torch
from helpers import CHANGED_LAYER, forward_by_formulas

import model
from augment import augment
from model import LightweightCNN, evaluate, predict, train
from support.digits import Digits


@pytest.fixture
def float64():
    """Rounding becomes so small that a training run can be compared with another form of it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("lr_schedule", "transform"), [("constant", None), ("linear", lambda x: 1 - x)]
)
def test_train_equals_the_plain_loop(float64, lr_schedule, transform):
    """Two epochs of 7 batches, the last one short: weights, statistics and history to 1e-6.

    The loop has its own forward pass, learning rates and means. Each image is seen once in an
    epoch, in an order that is new in each.
    """
    images = torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 10
    torch.manual_seed(7)
    network = LightweightCNN().eval()  # `train` must put it into train mode.
    digits = Digits(images, labels, images, labels, "noise")
    history = train(network, digits, epochs=2, lr_schedule=lr_schedule, transform=transform)

    assert not network.training, "`train` does not leave the network in eval mode"

    torch.manual_seed(7)
    plain = LightweightCNN()
    optimizer = torch.optim.Adam(plain.parameters(), betas=(0.9, 0.999))
    expected = []
    for epoch in range(2):
        losses, hits, order = [], [], torch.randperm(200)
        expected.append([])
        for batch in range(1, 8):
            index = order[32 * (batch - 1) : 32 * batch]
            x = images[index] if transform is None else 1 - images[index]
            logits = forward_by_formulas(plain, x)
            loss = -logits.log_softmax(1)[torch.arange(len(index)), labels[index]]  # (N,)
            done = (7 * epoch + batch - 1) / 14
            optimizer.param_groups[0]["lr"] = 0.003 * (1 if lr_schedule == "constant" else 1 - done)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            losses += loss.tolist()
            hits += (logits.argmax(1) == labels[index]).tolist()
            row = (batch, sum(losses) / len(losses), 100 * sum(hits) / len(hits))
            expected[-1].append(pytest.approx(row))
    changed = (
        f"{CHANGED_LAYER}; if you changed the optimizer, lr or loss, "
        "change optimizer, 0.003 or loss in this test"
    )
    assert [[tuple(p) for p in epoch.progress] for epoch in history] == expected, changed
    theirs = plain.state_dict()
    # The gradient of a bias before batch norm is 0 up to rounding, which Adam magnifies.
    no_effect = ("conv1.bias", "conv2.bias", "conv3.bias", "running_mean", "num_batches_tracked")
    for name, ours in network.state_dict().items():
        if not name.endswith(no_effect):
            assert (ours - theirs[name]).abs().max() < 1e-6, f"{name}: {changed}"


def test_unusable_arguments_are_named(few_digits):
    with pytest.raises(ValueError, match=f"one of {', '.join(model.SCHEDULES)}, got 'cosin'"):
        train(LightweightCNN(), few_digits, lr_schedule="cosin")
    for name in ("epochs", "batch_size", "log_interval"):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, got 0$"):
            train(LightweightCNN(), few_digits, **{name: 0})


@pytest.mark.parametrize("flag", [[], ["--augment"]], ids=["plain", "augmented"])
def test_only_training_images_are_augmented(few_loaded, monkeypatch, flag):
    """`augment` gets each batch of the training set; `evaluate` the test images as they are."""
    transformed, evaluated = [], []
    monkeypatch.setattr(model, "augment", lambda x: transformed.append(len(x)) or augment(x))
    record = lambda network, *given: evaluated.append(given) or evaluate(network, *given)  # noqa: E731
    monkeypatch.setattr(model, "evaluate", record)
    model.main(["--epochs", "2", *flag])
    assert transformed == (20 * [32] if flag else []), "not each training batch, and nothing else"
    assert len(evaluated) == 2, "once after each epoch"
    for images, labels in evaluated:
        assert images is few_loaded.test_images, "the test images are changed"
        assert labels is few_loaded.test_labels


def test_evaluate_leaves_the_network_as_it_was(digits):
    """Mode, running statistics and gradients are untouched; the accuracy is that of eval mode."""
    torch.manual_seed(0)
    network = LightweightCNN()
    x, y = digits.test_images[:950], digits.test_labels[:950]
    network(x[:500] / 255)  # moves the running statistics from their start
    before = copy.deepcopy(network.state_dict())
    for mode in (True, False):
        network.train(mode)
        accuracy = evaluate(network, x, y)
        assert network.training is mode, "evaluate has changed the mode"
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), f"evaluate has changed {key}: in train mode?"
    predicted = predict(network, x)
    assert not predicted.requires_grad
    logits = forward_by_formulas(network.eval(), x / 255)
    assert (predicted - logits).abs().max() < 1e-5, CHANGED_LAYER
    expected = 100 * (logits.argmax(1) == y).double().mean().item()
    assert accuracy == pytest.approx(expected, abs=0.11)


def test_torch_export_with_any_batch_size():
    """As the docstring of LightweightCNN writes it."""
    network, x = LightweightCNN().eval(), torch.rand(7, 1, 28, 28)
    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(network, (x[:2],), dynamic_shapes=shapes).module()
    torch.testing.assert_close(exported(x), network(x), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"shape \(N, 1, 28, 28\)"):
        network(x[:, 0])
