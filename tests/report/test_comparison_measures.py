"""The table of other measures in a comparison: the best is the lowest where lower is better."""

from __future__ import annotations

from promptfed.report.comparison_measures import measure_section

MEASURES = {
    "nll": {"name": "NLL", "better": "lower", "unit": "nats"},
    "f": {"name": "token F1", "better": "higher", "unit": "%"},
}


def method(label, nll, f1):
    each = {"nll": {"base": {"mean": nll, "std": 0.25}, "new": None}, "f": {"base": {"mean": f1, "std": None}}}
    return {"label": label, "measures": each}


def test_each_measure_is_marked_in_its_own_direction():
    section = measure_section({"measures": MEASURES}, {"a": method("A", 1.5, 0.25), "b": method("B", 0.5, 0.125)})
    assert section["columns"] == ["base NLL", "base token F1"]
    assert section["rows"] == [
        ("a", "A", ("1.500 ± 0.250", "25.0"), (False, True)),
        ("b", "B", ("0.500 ± 0.250", "12.5"), (True, False)),
    ]
    assert section["caption"].startswith("NLL in nats, lower is better; token F1 in %, higher is better.")


def test_there_is_no_table_without_measures():
    assert measure_section({}, {"a": {"label": "A"}}) is None
    assert measure_section({"measures": MEASURES}, {"a": {"label": "A"}}) is None
