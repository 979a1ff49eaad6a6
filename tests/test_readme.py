"""README and code agree. Tables and blocks are found by what is in them, not by their headings."""

import math
import re
import shlex
from textwrap import dedent

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, masked
from PIL import Image, ImageDraw

import model
import test_model
from support import dataset
from support.digits import CLASSES, DataError, Digits
from support.picture import read_picture

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line for line in README.splitlines() if line.startswith("| ")]
ROWS = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in LINES]
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def block_with(text):
    found = [block for block in BLOCKS if text in block]
    assert found, f"README has no code block with {text!r}; restore it, or change test_readme.py"
    return found[0]


def run_block(text, **names):
    """Execute a block of README as it stands, and return the names that it has defined."""
    exec(compile(block_with(text), "README.md", "exec"), names)
    return names


def comment_with(path, text):
    """Return the indented lines from `text` on in a comment of a source file, as code."""
    source = (ROOT / path).read_text(encoding="utf-8")
    lines = source[source.index(f"#     {text}") :].splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#     "))
    return dedent("\n".join(line[2:] for line in lines[:end]))


def readable(batch):
    """The shape of a batch as README writes it: 14×14×12 for (N, 12, 14, 14)."""  # noqa: RUF002
    channels, *size = batch.shape[1:]
    return "×".join(map(str, [*size, channels]))  # noqa: RUF001


def test_table_of_layers_and_the_flow_above_it():
    """Filters, output and parameters; a stage's pooled output is the input of the next."""
    network = model.LightweightCNN()
    outputs, counts = {}, {}
    for name, layer in network.named_children():
        layer.register_forward_hook(lambda _, x, y, name=name: outputs.update({name: y}))
        counts[name] = f"{model.count_parameters(layer):,}"
    network(torch.rand(2, 1, 28, 28))
    unused = counts.keys() - outputs.keys()
    assert not unused, f"forward() in model.py does not use {unused}"
    expected, flow = {}, ["28×28×1"]  # noqa: RUF001
    for conv, bn in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
        flow.append(readable(F.max_pool2d(outputs[bn], 2)))
        filters = f"Conv2d ({outputs[bn].shape[1]} filters"
        expected[f"`{conv}`, `{bn}`"] = [filters, flow[-1], f"{counts[conv]} + {counts[bn]}"]
    for name in [name for name in counts if not name.startswith(("conv", "bn"))]:
        kind = type(network.get_submodule(name)).__name__
        expected[f"`{name}`"] = [kind, readable(outputs[name]), counts[name]]
    rows, wrong = {row[0]: row[1:] for row in ROWS}, {}
    for name, cells in expected.items():
        operations, *rest = rows.get(name, [""])
        if not operations.startswith(cells[0]) or rest != cells[1:]:
            wrong[name] = cells
    (line,) = (line for line in README.splitlines() if "→ [conv1" in line)
    found = re.findall(r"\d+×\d+×\d+", line)  # noqa: RUF001
    names = [*counts, f"→ {CLASSES} logits"]
    if found != flow or any(name not in line for name in names):
        wrong["the line above the table"] = [*flow, *names]
    assert not wrong, f"correct README's table of layers: {wrong}"


@pytest.mark.parametrize("path", ["README.md", "model.py"])
def test_number_of_parameters_is_that_of_the_network(path):
    text = (ROOT / path).read_text(encoding="utf-8").replace("%2C", ",")
    text = text.replace("MLP of 11,140", "")  # benchmarks/seeds.py has it
    found = re.findall(r"(?:here |parameters-)(\d+,\d+)|(\d+,\d+) parameter", text)
    count = f"{model.count_parameters(model.LightweightCNN()):,}"
    wrong = {"".join(groups) for groups in found} - {count}
    badge = count.replace(",", "%2C")
    assert found and not wrong, f"put {count} in place of {wrong} in {path}; in its badge, {badge}"


def test_usage_is_that_of_help(capsys):
    with pytest.raises(SystemExit):
        model.main(["--help"])
    usage = " ".join(capsys.readouterr().out.split("\n\n")[0].split()[2:])
    assert f"`python model.py {usage}`" in README, f"put the usage into README: {usage}"


def test_log_except_for_its_numbers(default_run, digits):
    """Every line of README's log was printed, in this order."""
    if digits.name != "MNIST":
        pytest.skip("README's log is that of MNIST")
    printed = iter(map(masked, default_run.lines))
    for line in block_with("Starting Epoch 1").splitlines():
        # `in` takes lines from the iterator until it finds this one.
        assert line == "..." or masked(line) in printed, f"correct README's log: {line}"


def test_table_of_metrics_names_the_gates():
    shown = {row[0]: row[1] for row in ROWS if len(row) == 5}
    gates = {
        name: f"{sign} {bound:g}{unit}"
        for name, (sign, bound, unit) in test_model.GATES.items()
        if unit
    }
    wrong = {name: gate for name, gate in gates.items() if shown.get(name) != gate}
    assert not wrong, (
        f"measure {wrong} in benchmarks/seeds.py, and put the rows that it prints into README"
    )


def test_commands_and_links_name_files_that_exist():
    for script in re.findall(r"(?:python|bash) ([\w./]+)", README):
        assert (ROOT / script).exists(), script
    lines = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [shlex.split(line)[-1] for line in lines] == ["model.py", "test_model.py"]
    for link in re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', README):
        assert "".join(link).startswith("https://") or (ROOT / "".join(link)).exists(), link


# --- Snippets, and recipes in comments ----------------------------------------------------------


def test_snippet_predicts_your_own_digit(default_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes((default_run.folder / "weights.pt").read_bytes())
    picture = Image.new("L", (280, 280), 255)  # of a 7
    ImageDraw.Draw(picture).line([(60, 60), (180, 60), (110, 220)], fill=0, width=18)
    picture.save("digit.png")
    run_block("read_picture")
    probabilities = model.predict(default_run.network, read_picture("digit.png")).softmax(1)
    confidence = 100 * probabilities.max().item()
    assert capsys.readouterr().out == f"digit 7, confidence {confidence:.1f}%\n"


def test_notebook_gives_the_weights_of_model_py(few_digits, tmp_path, monkeypatch):
    """The example as it stands, on 320 digits."""
    path = tmp_path / "weights.pt"
    model.main(["--save-model", str(path)])
    expected = torch.load(path, weights_only=True)
    monkeypatch.setattr(dataset, "load_digits", model.load_digits)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = run_block("plt.plot")
    weights = names["network"].state_dict()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    (line,) = names["plt"].gca().lines
    assert list(line.get_ydata()) == [p.accuracy for p in names["history"][0].progress]
    names["plt"].close("all")


def test_recipe_for_digits_of_your_own(digits, tmp_path, monkeypatch, capsys):
    """The function in the comment, with its line in SOURCES, makes model.py train on it."""
    names = {"torch": torch, "Digits": Digits}
    exec(comment_with("support/dataset.py", "def load_my_digits"), names)
    source = (ROOT / "support/dataset.py").read_text(encoding="utf-8")
    name, function = re.search(r'`"([\w-]+)": (\w+),`', source).groups()
    monkeypatch.setitem(dataset.SOURCES, name, names[function])
    with pytest.raises(DataError, match=r"no .*my_digits\.pt; --data-dir or \$MNIST_DATA_DIR"):
        dataset.load_digits(name, tmp_path)
    torch.save((digits.images[:1200], digits.labels[:1200]), tmp_path / "my_digits.pt")
    model.main(["--dataset", name, "--data-dir", str(tmp_path)])
    assert f"Accuracy on 1,000 test images of {name}: " in capsys.readouterr().out


def test_recipe_for_a_schedule(few_digits, monkeypatch, capsys):
    schedules = eval("{" + comment_with("model.py", '"cosine"') + "}", {"math": math})
    assert [schedules["cosine"](done, 8) for done in (0, 4, 8)] == pytest.approx([1, 0.5, 0])
    monkeypatch.setitem(model.SCHEDULES, "cosine", schedules["cosine"])
    model.main(["--lr", "0.01", "--lr-schedule", "cosine"])
    assert "(lr=0.01, cosine schedule)" in capsys.readouterr().out
