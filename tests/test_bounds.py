"""What a gate records, and what it says of a broken bound."""

import pytest

BOUNDS = {"good": (">", 1.0, "%"), "count": ("<", 25_000, "")}


@pytest.fixture
def recorded():
    return {}


@pytest.fixture
def record_property(recorded):
    """In place of pytest's, so that these metrics are not in the table at the end."""
    return recorded.setdefault


@pytest.mark.parametrize(("value", "shown"), [(1.0, "1.00%"), (float("nan"), "nan%")])
def test_broken_bound_names_metric_value_and_bound(gate, recorded, digits, value, shown):
    """A bound is broken at its very value, and by NaN; every metric is recorded."""
    with pytest.raises(AssertionError, match=f"^good: {shown}, must be > 1%$"):
        gate({"good": value, "count": 9})
    assert recorded["good"] == (shown, "> 1%", "**BROKEN**", digits.name)
    assert recorded["count"] == ("9", "< 25,000", "kept", digits.name)
