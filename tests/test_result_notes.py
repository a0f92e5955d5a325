"""Notes and flags beside figures: when there is one, and what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from promptfed.evaluation import evaluate
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.result_notes import (
    below_zero_shot,
    figure_notes,
    flag,
    listed,
    near_chance_note,
    new_classes_line,
    simpler_note,
)
from promptfed.types import ClientPrompt, Metrics


@pytest.mark.parametrize(
    ("accuracy", "items", "classes"),
    [(0.125, 64, 8), (0.25, 8, 4), (0.5, 200, 2), (0.0, 20, 10), (0.14, 5000, 10), (3 / 7, 7, 4)],
)
def test_guessing_gets_a_note(accuracy: float, items: int, classes: int) -> None:
    note = near_chance_note(accuracy, items, classes)
    assert f"{100 * accuracy:.1f} % of {items}" in note
    assert f"guessing gives {100 / classes:.1f} %" in note


@pytest.mark.parametrize(("accuracy", "items", "classes"), [(1.0, 3, 2), (0.5, 6, 4), (3 / 7, 7, 4)])
def test_of_few_examples_that_are_mostly_right_it_says_that_they_are_few(
    accuracy: float, items: int, classes: int
) -> None:
    note = near_chance_note(accuracy, items, classes)
    assert "on so few validation examples" in note
    assert "hardly" not in note


@pytest.mark.parametrize(
    ("accuracy", "items", "classes"), [(0.44, 200, 20), (0.7, 200, 2), (0.25, 400, 10), (1.0, 5, 4), (0.5, 0, 2)]
)
def test_better_than_guessing_or_nothing_to_judge_gets_none(accuracy: float, items: int, classes: int) -> None:
    assert near_chance_note(accuracy, items, classes) == ""


def test_a_row_is_flagged_by_what_is_printed_below_zero_shot() -> None:
    level = {"local": 0.7, "local_all": 0.5, "base": 0.444, "new": None, "hm": None}
    for figures, expected in (
        ({"local": 0.9, "local_all": 0.5, "base": 0.354, "new": None}, ["base"]),
        ({"local": None, "local_all": 0.3, "base": 0.44399, "new": 0.2}, ["local (all classes)"]),
        ({"local": 0.6, "local_all": 0.4, "base": 0.1, "hm": 0.3}, ["local", "local (all classes)", "base"]),
        (level, []),
    ):
        assert below_zero_shot(figures, level) == expected
    assert below_zero_shot({"base": 0.1}, None) == []
    assert below_zero_shot({"hm": 0.1}, {"hm": 0.2}) == ["HM"]
    assert flag(["base", "HM"]) == "below zero-shot: base, HM"
    assert flag([]) == ""


def test_clients_with_one_class_are_named(setup, toy_task) -> None:
    method = PromptFL(PromptFLConfig(), setup)
    for clients, count, meaning in (
        (3, 2, "left out of local"),
        (2, 2, "no local accuracy"),
        (1, 1, "no local accuracy"),
    ):
        task = replace(toy_task, clients=toy_task.clients[:clients])
        prompts = {c.client: ClientPrompt(method.init_shared()) for c in task.clients}
        notes = figure_notes(task, evaluate(method, prompts, task).figures)
        assert notes[0].startswith(f"{count} of {clients} clients hold one class each (client 0")
        assert meaning in notes[0]


def test_figures_over_few_test_items_are_named(toy_task) -> None:
    def figures(**items: int) -> Metrics:
        return Metrics("x", 0.5, 0.1, 0.5, None, None, items=items)

    assert figure_notes(toy_task, figures(local=90, base=20)) == [
        "few test items, so the figures are rough (fewer than 50): base 20",
        "3 of 3 clients have fewer than 50 test items of their own (from 3): a single client's accuracy is rough",
    ]
    [rough] = figure_notes(toy_task, figures(local=49, local_all=49, base=50))
    assert rough.endswith("local 49, local (all classes) 49")
    named = replace(figures(local=60, base=90), domain_items={"sketch": 12, "photo": 78})
    assert "sketch 12" in figure_notes(toy_task, named)[0]
    assert "photo" not in figure_notes(toy_task, named)[0]


def test_classes_held_out_are_named_and_escaped() -> None:
    assert new_classes_line(()) == ""
    assert new_classes_line(("cat", "red\x1b[31m")).endswith(": cat, red\\x1b[31m")
    assert listed([f"c{k}" for k in range(12)], 3) == "c0, c1, c2 and 9 more"


def test_what_needs_no_prompt_and_does_better_is_named() -> None:
    rows = {key: {"name": key, "measures": {"mae": {"base": value}}} for key, value in
            (("persistence", 0.7), ("affine_output", 0.4), ("method", 0.5))}  # fmt: skip
    note = simpler_note(rows, "mae", ["persistence", "affine_output", "zero_shot"])
    assert note == "method has mae 0.500 on base, and what needs no prompt does better: affine_output 0.400"
    assert simpler_note(rows, "mae", ["persistence"]) == simpler_note(rows, "accuracy", ["affine_output"]) == ""
