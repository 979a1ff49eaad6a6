"""The three documents and the code agree: README, CONTRIBUTING and benchmarks/README.

Tables and blocks are found by what is in them, not by their headings.
"""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, masked, run_python

import model
from support import dataset
from support.digits import CLASSES
from test_model import BOUNDS

DOCUMENTS = ["README.md", ".github/CONTRIBUTING.md", "benchmarks/README.md"]
TEXTS = {path: (ROOT / path).read_text(encoding="utf-8") for path in DOCUMENTS}
README = TEXTS["README.md"]
LINES = [line for line in README.splitlines() if line.startswith("| ")]
ROWS = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in LINES]
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# --- Links and commands -------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_and_commands_name_what_exists(path):
    text = TEXTS[path]
    for link in re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', BLOCK.sub("", text)):
        target = "".join(link)
        exists = ((ROOT / path).parent / target).exists()
        assert target.startswith("https://") or exists, f"{path}: correct the link {target}"
    for script in re.findall(r"(?:python|bash) ([\w./]+)", text):
        assert (ROOT / script).exists(), f"{path}: correct the command with {script}"
    for tests in re.findall(r"pytest ([\w./ ]+)", text):
        for name in tests.split():
            assert (ROOT / name).exists(), f"{path}: correct the command with pytest {name}"
    for name, file in re.findall(r"`(\w+)` in ([\w./]+\.py)", text):
        defined = re.search(rf"\b{name}\b", (ROOT / file).read_text(encoding="utf-8"))
        assert defined, f"{path}: {file} has no {name}"


@pytest.mark.parametrize(
    "script", ["model.py", "augment.py", "examples/own_digit.py", "benchmarks/seeds.py"]
)
def test_flags_in_the_documents_are_flags_of_the_script(script):
    known = set(re.findall(r"--[\w-]+", run_python(script, "--help").stdout))
    for path, text in TEXTS.items():
        for command in re.findall(rf"python {script}([^`\n|]*)", text):
            unknown = set(re.findall(r"--[\w-]+", command)) - known
            assert not unknown, f"{path}: {script} has no flag {unknown}"


def test_quick_start_trains_and_tests():
    """.ci/run executes these lines as they stand."""
    lines = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [shlex.split(line)[-1] for line in lines] == ["model.py", "test_model.py"]


# --- README -------------------------------------------------------------------------------------


def readable(batch):
    """The shape of a batch as README writes it: 14×14×12 for (N, 12, 14, 14)."""  # noqa: RUF002
    channels, *size = batch.shape[1:]
    return "×".join(map(str, [*size, channels]))  # noqa: RUF001


def test_table_of_layers():
    """Filters, outputs and parameters of each layer, and the dropout."""
    network = model.LightweightCNN()
    outputs, counts = {}, {}
    for name, layer in network.named_children():
        layer.register_forward_hook(lambda _, x, y, name=name: outputs.update({name: y}))
        counts[name] = f"{model.count_parameters(layer):,}"
    network(torch.rand(2, 1, 28, 28))
    unused = counts.keys() - outputs.keys()
    assert not unused, f"forward() in model.py does not use {unused}"
    expected = {}
    for conv, bn in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
        filters = f"Conv2d ({outputs[bn].shape[1]} filters"
        shape = readable(F.max_pool2d(outputs[bn], 2))
        expected[f"`{conv}`, `{bn}`"] = [filters, shape, f"{counts[conv]} + {counts[bn]}"]
    for name in [name for name in counts if not name.startswith(("conv", "bn"))]:
        kind = type(network.get_submodule(name)).__name__
        kind += f"({network.dropout.p:g})" if name == "dropout" else ""
        expected[f"`{name}`"] = [kind, readable(outputs[name]), counts[name]]
    rows, wrong = {row[0]: row[1:] for row in ROWS}, {}
    for name, cells in expected.items():
        operations, *rest = rows.get(name, [""])
        if not operations.startswith(cells[0]) or rest != cells[1:]:
            wrong[name] = cells
    assert not wrong, f"correct README's table of layers: {wrong}"


def test_number_of_parameters_is_that_of_the_network():
    count = f"{model.count_parameters(model.LightweightCNN()):,}"
    badge = count.replace(",", "%2C")
    found = re.findall(r"(?:parameters-|has |with )(\d+(?:,|%2C)\d+)", README)
    wrong = {number for number in found if number.replace("%2C", ",") != count}
    message = f"README: put {count} in place of {wrong}; in the badge, {badge}"
    assert len(found) == 3 and not wrong, message


def test_log_except_for_its_numbers(default_run, digits):
    """Lines that are adjacent in README are adjacent in the log, from its start to its end."""
    if digits.name != "MNIST":
        pytest.skip("README's log is that of MNIST")
    (block,) = (block for block in BLOCK.findall(README) if "Starting Epoch 1" in block)
    printed = "\n".join(map(masked, default_run.lines))
    parts = ["\n".join(map(masked, part.splitlines())) for part in block.split("\n...\n")]
    for part in parts:
        assert part in printed, f"correct README's log, these lines are not in the log:\n{part}"
    whole = printed.startswith(parts[0]) and printed.endswith(parts[-1])
    assert whole, f"README's log lacks lines at its start or its end; the log is:\n{printed}"


def test_bounds_in_the_table_of_gates():
    """In the order of BOUNDS, each with its sign; and the badge."""
    expected = [f"{sign} {bound:,g}{unit}" for sign, bound, unit in BOUNDS.values()]
    (start,) = (i for i, row in enumerate(ROWS) if row == ["Gate", "What it asks", "Bounds"])
    rows = [row for row in ROWS[start + 1 :] if len(row) == 3]
    shown = re.findall(r"[<>] [\d.,]*\d%?", " ".join(row[2] for row in rows))
    assert shown == expected, f"README's table of gates must have, in this order: {expected}"
    first = f"accuracy-%3E%20{BOUNDS['first epoch accuracy'][1]:g}%25-"
    assert first in README, f"the badge of the first epoch accuracy must have {first}"


# --- Blocks of Python, executed as they stand ---------------------------------------------------


def run_block(path, text):
    """Execute the block of a document that contains `text`; return the names that it defined."""
    found = [block for block in BLOCK.findall(TEXTS[path]) if text in block]
    assert found, f"{path} has no block with {text!r}; restore it, or change test_documents.py"
    names = {}
    try:
        exec(compile(found[0], path, "exec"), names)
    except (AttributeError, ImportError, NameError, TypeError) as error:
        raise AssertionError(f"{path}: correct the block with {text!r}: {error}") from error
    return names


def test_every_block_of_python_is_executed_here():
    """A new block needs a test."""
    blocks = [path for path in DOCUMENTS for _ in re.findall("^```python$", TEXTS[path], re.M)]
    assert blocks == ["README.md", *5 * [".github/CONTRIBUTING.md"]]


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)


def test_notebook_gives_the_weights_of_model_py(few_loaded, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    model.main(["--save-model", str(path)])
    assert capsys.readouterr().out.endswith(f"wrote {path}\n")
    expected = torch.load(path, weights_only=True)
    names = run_block("README.md", "manual_seed(42)")
    weights = names["network"].state_dict()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    (line,) = names["plt"].gca().lines
    assert list(line.get_ydata()) == [p.accuracy for p in names["history"][0].progress]
    assert float(capsys.readouterr().out.split()[-1]) == names["history"][0].test_accuracy
    names["plt"].close("all")
    model.main(["--seed", "0", "--save-model", str(path)])
    other = torch.load(path, weights_only=True)
    assert not torch.equal(other["fc1.weight"], expected["fc1.weight"]), "--seed has no effect"


def test_recipe_for_a_schedule(few_loaded, monkeypatch, capsys):
    """It rises to 1 and falls to 0; the flag and the log take its name from SCHEDULES."""
    monkeypatch.setattr(model, "SCHEDULES", dict(model.SCHEDULES))
    names = run_block(".github/CONTRIBUTING.md", "SCHEDULES[")
    values = names["plt"].gca().lines[0].get_ydata()
    names["plt"].close("all")
    assert (values[0], values[-1]) == pytest.approx((0.01, 0))
    assert max(values) == max(values[:200]) == pytest.approx(1, abs=1e-3)
    model.main(["--lr", "0.01", "--lr-schedule", "warm-up"])
    assert "(lr=0.01, warm-up schedule)" in capsys.readouterr().out


def test_recipe_for_an_operation(few_loaded, capsys):
    names = run_block(".github/CONTRIBUTING.md", "transform=")
    assert "  - Transform: augment_and_darken\n" in capsys.readouterr().out
    factors = names["augment_and_darken"](torch.ones(100, 1, 28, 28)).amax((1, 2, 3))
    assert 0.5 <= factors.min() < 0.6 < 0.9 < factors.max() <= 1


def test_recipe_for_digits_of_your_own(digits, tmp_path, monkeypatch, capsys):
    """Its last line trains on them, and a missing file is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dataset, "SOURCES", dict(dataset.SOURCES))
    Path("my_data").mkdir()
    torch.save((digits.images[:1200], digits.labels[:1200]), "my_data/my_digits.pt")
    names = run_block(".github/CONTRIBUTING.md", "load_my_digits")
    assert names["digits"].name == "my-digits"
    monkeypatch.setattr("support.command_line.SOURCES", dataset.SOURCES)
    model.main(["--dataset", "my-digits", "--data-dir", "my_data"])
    assert "Accuracy on 1,000 test images of my-digits: " in capsys.readouterr().out
    Path("my_data/my_digits.pt").unlink()
    with pytest.raises(dataset.DataError, match=r"no .*my_digits\.pt; --data-dir or \$MNIST_DATA"):
        dataset.load_digits("my-digits", "my_data")


def test_recipe_for_a_bound(default_run, digits, monkeypatch):
    monkeypatch.setattr("test_model.BOUNDS", dict(BOUNDS))
    names = run_block(".github/CONTRIBUTING.md", "BOUNDS[")
    (name,) = names["BOUNDS"].keys() - BOUNDS.keys()
    given = {}
    networks = SimpleNamespace(without_augmentation=[default_run.network])
    names["test_images_half_as_bright"](networks, digits, given.update)
    sign, bound, _ = names["BOUNDS"][name]
    assert sign == "<"
    assert 0 < given[name] < bound


def test_recipe_for_a_validation_set(few_loaded, capsys):
    """No test image is used, and no training image is in both parts."""
    names = run_block(".github/CONTRIBUTING.md", "validation")
    validation, log = names["validation"], capsys.readouterr().out
    assert torch.equal(torch.cat([validation.images, validation.test_images]), few_loaded.images)
    assert torch.equal(torch.cat([validation.labels, validation.test_labels]), few_loaded.labels)
    shown = re.findall(r"^learning rate (\S+): validation accuracy [\d.]+ to [\d.]+%$", log, re.M)
    assert shown == ["0.001", "0.003", "0.01"]
    assert len(names["history"]) == 1 and len(validation.labels.unique()) == CLASSES
