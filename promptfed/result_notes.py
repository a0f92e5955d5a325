"""What a reader must know beside the figures: results that say little, and results below zero-shot.

Notes are values in ``metrics.json``, so that the terminal, the log and the report say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptfed.intervals import guessing_probability
from promptfed.measures.selection import Selection
from promptfed.printable import printable
from promptfed.types import FederatedTask, Metrics

FEWEST_ITEMS = 50
"""A figure over fewer test items gets a note."""
LISTED = 8
COMPARED = ("local", "local_all", "base", "new", "hm")
SHOWN = {"local_all": "local (all classes)", "hm": "HM"}
"""Figures whose name in tables is not their key."""
LUCK, SKILL = 0.05, 0.05
"""Near chance: a guesser does as well with more than this probability, or so little of the way to perfect is made."""


def figure_notes(task: FederatedTask, figures: Metrics, examples: str = "images") -> list[str]:
    """Return notes on clients that ``local`` leaves out, and on figures over few test items.

    ``examples``: what these are called.
    """
    notes = []
    if figures.one_class:
        one_class = frozenset(figures.one_class)
        names = listed([summary.name for summary in task.summaries() if summary.client in one_class])
        count, tested = len(figures.one_class), sum(summary.test > 0 for summary in task.summaries())
        notes.append(
            f"{count} of {tested} clients hold one class each ({names}): with nothing to choose between, "
            + ("there is no local accuracy" if count == tested else "they are left out of local")
            + f"; local (all classes) has their {examples} among all base classes"
        )
    small_groups = [
        f"{SHOWN.get(name, name)} {items}" for name, items in figures.items.items() if 0 < items < FEWEST_ITEMS
    ]
    small_groups += [
        f"{printable(domain)} {items}" for domain, items in figures.domain_items.items() if items < FEWEST_ITEMS
    ]
    if small_groups:
        notes.append(f"few test items, so the figures are rough (fewer than {FEWEST_ITEMS}): {listed(small_groups)}")
    sizes = [summary.test for summary in task.summaries() if summary.test]
    if "local" not in " ".join(small_groups) and min(sizes, default=FEWEST_ITEMS) < FEWEST_ITEMS:
        small = sum(size < FEWEST_ITEMS for size in sizes)
        notes.append(
            f"{small} of {len(sizes)} clients have fewer than {FEWEST_ITEMS} test items of their own "
            f"(from {min(sizes)}): a single client's accuracy is rough"
        )
    return notes


def near_chance_note(accuracy: float, items: int, classes: int) -> str:
    """Return a note if zero-shot's validation ``accuracy`` among ``classes`` may be that of guessing, else "".

    It is if it makes less than 5 % of the way from guessing to all right. If it makes more, but a guesser gets as many
    right with probability above 5 % (one-sided binomial test), the examples are too few to tell, and the note says so.
    """
    if not items or classes < 2:
        return ""
    chance = 1 / classes
    is_luck = guessing_probability(round(accuracy * items), items, chance) > LUCK
    is_skilled = (accuracy - chance) / (1 - chance) >= SKILL
    if is_skilled and not is_luck:
        return ""
    right = f"{100 * accuracy:.1f} % of {items} right among {classes} classes where guessing gives {100 * chance:.1f} %"
    if is_skilled:
        return (
            f"zero-shot cannot be told from guessing on so few validation examples: {right}. More of them would show "
            "whether the model knows such data"
        )
    return f"zero-shot is near chance on validation data: {right}. The model hardly knows such data: try another"


def simpler_note(metrics: Mapping[str, Any], measure: str, names: Sequence[str]) -> str:
    """Return a note if a trivial baseline has a better figure than the method.

    Args:
        metrics: The rows of the table by their keys, with ``method``.
        measure: The name of the measure.
        names: The keys of the trivial baselines, and of the model alone.
    """

    def figure(key: str) -> float | None:
        value = ((metrics.get(key) or {}).get("measures") or {}).get(measure, {}).get("base")
        return None if value is None else float(value)

    merit, own = Selection.of(measure).merit, figure("method")
    better = [
        (name, value)
        for name in names
        if (value := figure(name)) is not None and own is not None and merit(value) > merit(own)
    ]
    if not better or own is None:
        return ""
    listing = ", ".join(f"{metrics[name]['name']} {value:.3f}" for name, value in better)
    return (
        f"{metrics['method']['name']} has {measure} {own:.3f} on base, and what needs no prompt does better: {listing}"
    )


def attack_note(attack: Mapping[str, Any]) -> str:
    """Return the sentence that says that a run was attacked, by whom, and with what success beside accuracy."""
    names = ", ".join(map(str, attack["malicious"][:LISTED])) or "none"
    more = " and more" if len(attack["malicious"]) > LISTED else ""
    line = (
        f"attack {attack['name']} (a simulation): {len(attack['malicious'])} of {attack['clients']} clients are "
        f"malicious ({names}{more}), and the figures of all clients count theirs"
    )
    if "asr" not in attack:
        return line
    rates = (f"{100 * attack[key]:.1f} %" for key in ("asr", "asr_start", "without_trigger"))
    return (
        "{}; {} of the test items get the target class with the trigger, {} with the prompt before training, and {} "
        "without the trigger".format(line, *rates)
    )


def below_zero_shot(figures: Mapping[str, Any], zero_shot: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the figures that are below zero-shot's, as they are printed (one decimal of a per cent)."""
    if zero_shot is None or figures is zero_shot:
        return []
    pairs = {name: (figures.get(name), zero_shot.get(name)) for name in COMPARED}
    return [
        SHOWN.get(name, name)
        for name, (value, level) in pairs.items()
        if value is not None and level is not None and round(100 * value, 1) < round(100 * level, 1)
    ]


def flag(below: Sequence[str]) -> str:
    """Return what stands beside a row: ``"below zero-shot: base, HM"``; empty if nothing is below."""
    return f"below zero-shot: {', '.join(below)}" if below else ""


def new_classes_line(new_classes: Sequence[str], most: int = LISTED) -> str:
    """Return the sentence that names the classes held out; empty if there are none."""
    if not new_classes:
        return ""
    return f"new: {len(new_classes)} classes held out, which no client trains on: {listed(new_classes, most)}"


def listed(names: Sequence[str], most: int = LISTED) -> str:
    """Return the first ``most`` of ``names``, and how many more there are."""
    listing = ", ".join(printable(name, 64) for name in names[:most])
    return f"{listing} and {len(names) - most} more" if len(names) > most else listing
