"""The table of metrics, and what a broken bound says."""

from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT

BOUNDS = {"good": (">", 1, "%"), "bad": ("<", 5.0, ""), "count": ("<", 25_000, "")}


@pytest.fixture
def plugin(pytestconfig):
    """The module conftest.py of the repository."""
    return pytestconfig.pluginmanager.get_plugin(str(ROOT / "conftest.py"))


def test_broken_bound_names_metric_value_and_bound(plugin):
    recorded = {}
    with pytest.raises(AssertionError, match=r"^bad: 6\.00, must be < 5$"):
        plugin.hold(
            {"count": 10_982, "bad": 6.0, "good": 2.0}, BOUNDS, "MNIST", recorded.setdefault
        )
    assert recorded == {
        "count": "10,982; < 25,000; kept; MNIST",
        "bad": "6.00; < 5; **BROKEN**; MNIST",
        "good": "2.00%; > 1%; kept; MNIST",
    }


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_bound_breaks_at_its_value_and_for_nan(plugin, value):
    with pytest.raises(AssertionError, match=r"^good: .*%, must be > 1%$"):
        plugin.hold({"good": value}, BOUNDS, "MNIST", lambda *_: None)


def test_misspelt_metric_is_named(plugin):
    with pytest.raises(AssertionError, match=r"no bound for {'god'}.*\['good', 'bad', 'count'\]"):
        plugin.hold({"god": 2.0}, BOUNDS, "MNIST", lambda *_: None)


def test_table_shows_the_metrics_of_all_reports_in_order(plugin, tmp_path, monkeypatch):
    """Passed and failed; in the terminal and in the summary of a GitHub job."""

    def report(line, *properties):
        return SimpleNamespace(when="call", location=("t.py", line, ""), user_properties=properties)

    passed = [report(9, ("good", "2.00%; > 1%; kept; my; digits")), report(8)]
    failed = [report(3, ("bad", "6.00; < 5; **BROKEN**; MNIST"))]
    shown = []
    reporter = SimpleNamespace(
        stats={"passed": passed, "failed": failed, "warnings": ["no report"]},
        section=shown.append,
        write_line=shown.append,
    )
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    plugin.pytest_terminal_summary(reporter)
    title, text = shown
    assert title == "metrics"
    assert summary.read_text(encoding="utf-8") == f"\n{text}\n"
    versions, _, *table = text.splitlines()
    assert versions.endswith(f", torch {torch.__version__}")
    assert table == [
        "| metric | value | bound | kept       | dataset    |",
        "| ------ | ----- | ----- | ---------- | ---------- |",
        "| bad    | 6.00  | < 5   | **BROKEN** | MNIST      |",
        "| good   | 2.00% | > 1%  | kept       | my; digits |",
    ]
