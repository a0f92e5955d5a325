"""The verdict, the tiles and the warnings say what the figures say."""

from typing import Any

import pytest

from promptfed.report.glance import tiles, verdict, warnings


def stage(name: str, base: float, ends: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {"name": name, "local": base, "base": base, "new": None, "hm": None, "intervals": {"base": ends}, **more}


METRICS = {
    "zero_shot": stage("zero-shot", 0.444, (0.40, 0.49)),
    "local_only": stage("local-only", 0.52, (0.48, 0.56)),
    "method": stage("PromptFL", 0.538, (0.50, 0.58), below_zero_shot=["new"]),
    "examples": "images",
}


def test_a_difference_is_clear_where_the_intervals_do_not_meet() -> None:
    assert verdict(METRICS) == (
        "PromptFL classifies 53.8 % of the test images right, choosing among all training classes (95 % interval 50.0 "
        "to 58.0): 9.4 points above zero-shot (44.4); 1.8 points above local-only (52.0), which may be chance. On a "
        "client's own classes it reaches 53.8 %, the mean over clients (zero-shot 44.4, local-only 52.0)."
    )


def test_a_method_below_and_one_that_is_equal() -> None:
    metrics = {**METRICS, "method": stage("M", 0.444, (0.40, 0.49), local=None)}
    assert "the same as zero-shot; 7.6 points below local-only (52.0), which may be chance." in verdict(metrics)


def test_questions_have_answers_and_a_run_under_way_no_verdict() -> None:
    assert "PromptFL answers 53.8 % of the test questions right (95" in verdict({**METRICS, "examples": "questions"})
    assert verdict({}) == ""
    assert tiles({}) == []


def test_tiles_say_the_difference_to_each_baseline_as_printed() -> None:
    local, base = tiles(METRICS)
    assert (local.name, base.name) == ("local", "base")
    assert (base.value, base.interval) == ("53.8", "[50.0, 58.0]")
    assert base.differences == (("+9.4 vs zero-shot", "up"), ("+1.8 vs local-only", "up"))
    worse = {**METRICS, "method": stage("M", 0.43, (0.4, 0.5))}
    assert tiles(worse)[1].differences[0] == ("\u22121.4 vs zero-shot", "down")


def test_a_method_that_kept_zero_shot_says_so_first() -> None:
    metrics = {**METRICS, "method": stage("FedBPT", 0.4, (0.3, 0.5)), "kept_zero_shot": {"method": "kept zero-shot"}}
    assert warnings(metrics, [], {}) == [
        "On validation examples the prompt without training does better, so it is tested and exported: FedBPT kept "
        "zero-shot."
    ]


def rounds(field: str, values: list[float | None]) -> list[dict[str, Any]]:
    return [{"event": "round", "stage": "m", "round": r, field: value} for r, value in enumerate(values, 1)]


def test_below_zero_shot_and_notes() -> None:
    lines = warnings({**METRICS, "notes": ["few test items"]}, [], {})
    assert lines == [
        "PromptFL is below zero-shot on new: there the model does better without what was trained.",
        "Few test items.",
    ]


@pytest.mark.parametrize(
    ("losses", "is_warned"),
    [
        ([2.0, 1.0, 0.5, 0.9], True),
        ([2.0, 1.0, 0.5, 0.54], False),
        ([2.0, 1.0, None, 0.5, 0.4], False),
        ([1.0, 2.0, 3.0], False),
    ],
)
def test_a_loss_that_rises(losses: list[float | None], is_warned: bool) -> None:
    lines = warnings({}, rounds("loss", losses), {"m": "M"})
    assert lines == (
        ["The training loss of M rises: it is 0.9 at the end and was 0.5 around round 3. Try a smaller learning rate."]
        if is_warned
        else []
    )


def test_a_validation_accuracy_that_falls() -> None:
    [line] = warnings({}, rounds("val_accuracy", [0.5, 0.6, 0.58, 0.55]), {"m": "M"})
    assert line == (
        "The validation accuracy of M was highest in round 2, 60.0 %, and is 55.0 % at the end: fewer rounds may do."
    )
    assert warnings({}, rounds("val_accuracy", [0.5, 0.6, 0.58, 0.585]), {"m": "M"}) == []


def test_lost_updates() -> None:
    def clients(lost: int) -> list[dict[str, Any]]:
        return [{"event": "client", "stage": "m", "failure": "late" if k < lost else ""} for k in range(10)]

    assert warnings({}, clients(1), {"m": "M"}) == []
    assert warnings({}, clients(2), {"m": "M"}) == [
        "2 of 10 updates of M were lost or refused; the section Rounds says why."
    ]
