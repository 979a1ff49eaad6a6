"""The three documents and the code agree: README, CONTRIBUTING and benchmarks/README.

Tables and blocks are found by what is in them, not by their headings.
"""

import re
import shlex
from types import SimpleNamespace

import own_digit
import pytest
import seeds
import torch
import torch.nn.functional as F
from helpers import ROOT, masked

import augment
import model
from support import dataset
from test_model import BOUNDS

DOCUMENTS = ["README.md", ".github/CONTRIBUTING.md", "benchmarks/README.md"]
TEXTS = {path: (ROOT / path).read_text(encoding="utf-8") for path in DOCUMENTS}
README = TEXTS["README.md"]
LINES = [line for line in README.splitlines() if line.startswith("| ")]
ROWS = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in LINES]
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_and_commands_name_what_exists(path):
    for link in re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', BLOCK.sub("", TEXTS[path])):
        target = "".join(link)
        exists = ((ROOT / path).parent / target).exists()
        assert target.startswith("https://") or exists, f"{path}: correct the link {target}"
    commands = re.findall(r"(?:python|bash|pytest) ([\w./]+\.py\b|\.ci/run)", TEXTS[path])
    for name in commands:
        assert (ROOT / name).exists(), f"{path}: correct the command with {name}"
    for name, file in re.findall(r"`(\w+)` in ([\w./]+\.py)", TEXTS[path]):
        defined = re.search(rf"\b{name}\b", (ROOT / file).read_text(encoding="utf-8"))
        assert defined, f"{path}: {file} has no {name}"


SCRIPTS = {
    "model.py": model,
    "augment.py": augment,
    "examples/own_digit.py": own_digit,
    "benchmarks/seeds.py": seeds,
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_flags_in_the_documents_are_flags_of_the_script(script, capsys):
    with pytest.raises(SystemExit):
        SCRIPTS[script].main(["--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    for path, text in TEXTS.items():
        for command in re.findall(rf"python {script}([^`\n|]*)", text):
            unknown = set(re.findall(r"--[\w-]+", command)) - known
            assert not unknown, f"{path}: {script} has no flag {unknown}"


def test_quick_start_trains_and_tests():
    """.ci/run executes these lines as they stand."""
    lines = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [shlex.split(line)[-1] for line in lines] == ["model.py", "test_model.py"]


def readable(batch):
    """The shape of a batch as README writes it: 14×14×12 for (N, 12, 14, 14)."""  # noqa: RUF002
    channels, *size = batch.shape[1:]
    return "×".join(map(str, [*size, channels]))  # noqa: RUF001


def test_table_of_layers():
    """Filters, outputs and parameters of each layer, the dropout, and the badge."""
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
    count = f"{model.count_parameters(network):,}"
    badge = f"parameters-{count.replace(',', '%2C')}-"
    assert badge in README, f"README's badge must have {badge}, and the text at the top {count}"


def test_log_except_for_its_numbers(default_run, digits):
    """Lines that are adjacent in README are adjacent in the log, from its start to its end."""
    if digits.name != "MNIST":
        pytest.skip("README's log is that of MNIST")
    (block,) = (block for block in BLOCK.findall(README) if "Starting Epoch 1" in block)
    printed = "\n".join(map(masked, default_run.lines))
    parts = ["\n".join(map(masked, part.splitlines())) for part in block.split("\n...\n")]
    for part in parts:
        wrong = [line for line in part.splitlines() if line not in printed.splitlines()]
        assert part in printed, (
            f"correct README's log, which the log does not have: {wrong or part}"
        )
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


BLOCKS = [
    (path, block)
    for path in DOCUMENTS
    for block in re.findall(r"^```python\n(.*?)^```$", TEXTS[path], re.MULTILINE | re.DOTALL)
]


@pytest.fixture
def run_block(few_loaded, tmp_path, monkeypatch):
    """A function that executes the one block that contains a text, and returns what it defined."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    monkeypatch.setattr(model, "SCHEDULES", dict(model.SCHEDULES))
    monkeypatch.setattr(dataset, "SOURCES", dict(dataset.SOURCES))
    monkeypatch.setattr("test_model.BOUNDS", dict(BOUNDS))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_data").mkdir()
    mine = torch.cat(4 * [few_loaded.images]), torch.cat(4 * [few_loaded.labels])
    torch.save(mine, "my_data/my_digits.pt")

    def run_block(text):
        ((path, block),) = (found for found in BLOCKS if text in found[1])
        names = {}
        try:
            exec(compile(block, path, "exec"), names)
        except (AttributeError, ImportError, NameError, TypeError) as error:
            raise AssertionError(f"{path}: correct the block with {text!r}: {error}") from error
        return names

    return run_block


@pytest.mark.parametrize("block", [block for _, block in BLOCKS], ids=range(len(BLOCKS)))
def test_block_runs(run_block, block):
    run_block(block)


def test_notebook_gives_the_weights_of_model_py(run_block, tmp_path):
    weights = run_block("manual_seed(42)")["network"].state_dict()
    for seed, same in ((42, True), (0, False)):
        model.main(["--seed", str(seed), "--save-model", str(tmp_path / "weights.pt")])
        expected = torch.load(tmp_path / "weights.pt", weights_only=True)
        found = all(torch.equal(weights[key], expected[key]) for key in expected)
        assert found is same, f"--seed {seed} gives the weights of README's block: {found}"


def test_recipe_for_a_bound(run_block, default_run, digits):
    names, given = run_block("BOUNDS["), {}
    thirds = SimpleNamespace(without_augmentation=[default_run.network])
    names["test_images_half_as_bright"](thirds, digits, given.update)
    ((name, value),) = given.items()
    assert 0 < value < names["BOUNDS"][name][1]


def test_recipe_for_a_comparison(run_block, few_loaded, capsys):
    """No test image is used, and no training image is in both parts."""
    validation = run_block("validation")["validation"]
    assert torch.equal(torch.cat([validation.images, validation.test_images]), few_loaded.images)
    assert torch.equal(torch.cat([validation.labels, validation.test_labels]), few_loaded.labels)
    assert re.search(r"^mean -?\d+\.\d\d, standard error \d+\.\d\d$", capsys.readouterr().out, re.M)
