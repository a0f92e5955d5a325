"""The table of what compared runs promise."""

from __future__ import annotations

from promptfed.comparison.summary import _weakest
from promptfed.report.comparison_privacy import privacy_section

PROMISE = {"unit": "one client's whole data", "epsilon": 8.0, "delta": 1e-3}


def test_each_method_says_what_it_spent():
    methods = {
        "zero_shot": {"label": "zero-shot"},
        "promptfl": {"label": "PromptFL", "privacy": PROMISE},
        "fedprox": {"label": "FedProx", "privacy": {**PROMISE, "epsilon": None}},
    }
    section = privacy_section(methods)
    assert [(name, cells) for name, _, cells, _ in section["rows"]] == [
        ("zero_shot", ("-", "-", "no promise")),
        ("promptfl", ("8.00", "0.001", "one client's whole data")),
        ("fedprox", ("no limit", "0.001", "one client's whole data")),
    ]


def test_there_is_no_table_without_a_promise():
    assert privacy_section({"promptfl": {"label": "PromptFL"}}) is None


def test_of_several_seeds_the_largest_epsilon_counts():
    assert _weakest([{"epsilon": 2.0}, {"epsilon": 3.0}]) == {"epsilon": 3.0}
    assert _weakest([{"epsilon": 2.0}, {"epsilon": None}]) == {"epsilon": None}
