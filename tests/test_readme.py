"""README and code agree. Tables and blocks are found by what is in them, not by their headings."""

import re
from pathlib import Path

import pytest
from helpers import masked

import model
import test_model

HERE = Path(__file__).resolve().parent.parent
README = (HERE / "README.md").read_text(encoding="utf-8")
LINES = [line for line in README.splitlines() if line.startswith("| ")]
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in LINES]
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def block_with(text):
    found = [block for block in BLOCKS if text in block]
    assert found, f"README has no code block with {text!r}; restore it, or change test_readme.py"
    return found[0]


def test_parameters():
    """If this fails after you changed a layer: correct README's table."""
    network = model.LightweightCNN()
    count = model.count_parameters
    counts = {name: f"{count(layer):,}" for name, layer in network.named_children()}
    counts["total"] = f"{count(network):,}"
    shown = {row[0].strip("`"): row[-1] for row in ROWS}
    assert {name: shown.get(name) for name in counts} == counts


def test_flags_and_their_defaults(monkeypatch, capsys):
    for name in ("MNIST_DATASET", "MNIST_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        model.main(["--help"])
    usage = re.sub(r"\s+", " ", capsys.readouterr().out.split("\n\n")[0])
    expected = re.findall(r"\[(--[a-z-]+(?: [^\]]+)?)\]", usage)
    shown = {row[0].strip("`"): row[1].strip("`") for row in ROWS if row[0].startswith("`--")}
    assert sorted(shown) == sorted(expected)
    for name, value in vars(model.parse_args([])).items():
        flag = next(f for f in shown if f.split()[0] == "--" + name.replace("_", "-"))
        assert shown[flag] == {None: "none", False: "off"}.get(value, str(value)), flag


def test_log_but_for_its_figures(default_run, digits):
    log = block_with("Starting Epoch 1").splitlines()
    assert log[3:8] == default_run.lines[3:8]
    if digits.source == "mnist":
        printed = iter(map(masked, default_run.lines))  # `in` goes on where the last one stopped
        assert all(line == "..." or masked(line) in printed for line in log)


def test_accuracy_table_names_the_bounds_of_the_gates():
    shown = {row[0]: row[1] for row in ROWS}
    bounds = {name: f"{bound:g}" for name, bound in test_model.ABOVE.items() if " norm" not in name}
    assert {name: shown.get(name) for name in bounds} == bounds, (
        "run benchmarks/seeds.py, edit README"
    )


def test_snippet_reads_a_digit(default_run, digits, monkeypatch, capsys):
    held_out = digits.test_images, digits.test_labels, digits.source
    monkeypatch.setattr("dataset.load_digits", lambda train: held_out)
    monkeypatch.chdir(default_run.report.parent)
    exec(compile(block_with("load_state_dict"), "README.md", "exec"), {})
    read = model.predict(default_run.network, digits.test_images[:1]).argmax().item()
    assert capsys.readouterr().out == f"read {read}, it is {digits.test_labels[0]}\n"


def test_links_and_files():
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
    for link in re.findall(r"\]\(([^)]+)\)", README) + re.findall(r'src="([^"]+)"', README):
        assert link.startswith("https://") or link in anchors or (HERE / link).exists(), link
    for path in (*HERE.glob("*.py"), *HERE.glob("benchmarks/*.py")):
        assert f"]({path.relative_to(HERE).as_posix()})" in README, f"{path} is not in README"
