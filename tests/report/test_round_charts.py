"""The curves draw the numbers of the log."""

from collections.abc import Callable
from typing import Any

import pytest

from promptfed.report import round_charts as module
from promptfed.report.charts.lines import Series
from promptfed.report.round_charts import one_decimal, query_chart, round_chart, round_charts
from promptfed.report.stage_looks import run_stages
from promptfed.runs.directory import RunDirectory
from promptfed.runs.ledger import query_curve

MakeRun = Callable[..., RunDirectory]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Series]]:
    """The series of each chart that is drawn, by label."""
    charts: list[dict[str, Series]] = []
    real = module.line_chart

    def noted(title: str, series: list[Series], **options: Any) -> Any:
        charts.append({one.label: one for one in series})
        return real(title, series, **options)

    monkeypatch.setattr(module, "line_chart", noted)
    return charts


def test_curves_hold_the_round_events(make_run: MakeRun, drawn: list[dict[str, Series]]) -> None:
    assert round_chart(make_run(rounds=3).events.read(), "loss", "Loss", "training loss") is not None
    assert set(drawn[0]) == {"zero-shot", "local-only", "PromptFL"}
    assert drawn[0]["PromptFL"].points == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]


def test_fractions_become_percent_and_a_single_round_a_level(make_run: MakeRun, drawn: list[dict[str, Series]]) -> None:
    round_chart(make_run(rounds=2).events.read(), "val_accuracy", "Validation", "%", percent=True)
    assert [y for _, y in drawn[0]["PromptFL"].points] == pytest.approx([45, 50])
    assert drawn[0]["zero-shot"].is_level
    assert drawn[0]["zero-shot"].points == [(1, pytest.approx(45))]


def test_a_report_has_a_chart_of_each_field_that_was_recorded(make_run: MakeRun) -> None:
    events = make_run(rounds=2).events.read()
    assert [chart.title for chart in round_charts(events)] == [
        "Training loss", "Validation accuracy", "Training accuracy"]  # fmt: skip
    moved = [{**event, "drift": 0.25} if event["event"] == "round" else event for event in events]
    drift = round_charts(moved)[-1]
    assert drift.title == "Drift of the shared prompt"
    assert "PromptFL: from 25 at 1 to 25 at 2" in drift.description
    assert "zero-shot" not in drift.description


def test_accuracy_against_queries_adds_up_the_clients_and_skips_rounds_nobody_validated(
    drawn: list[dict[str, Series]],
) -> None:
    def client(stage: str, round: int, asked: int) -> dict[str, object]:
        return {"event": "client", "stage": stage, "round": round, "oracle_queries": asked}

    def end(stage: str, round: int, accuracy: float | None) -> dict[str, object]:
        return {"event": "round", "stage": stage, "round": round, "val_accuracy": accuracy}

    events = [client("zero_shot", 1, 40), end("zero_shot", 1, 0.6)]
    for round, accuracy in ((1, 0.5), (2, None), (3, 0.75)):
        events += [client("fedbpt", round, 10), client("fedbpt", round, 20), end("fedbpt", round, accuracy)]
    assert query_curve(events, "fedbpt") == [(30, 0.5), (90, 0.75)]
    assert query_chart(events) is not None
    assert drawn[0]["fedbpt"].points == [(30, 50), (90, 75)]
    assert drawn[0]["zero-shot"].points == [(40, 60)]
    assert drawn[0]["zero-shot"].is_level
    white = [{**event, "oracle_queries": 0} for event in events]
    assert query_curve(white, "fedbpt") == []
    assert query_chart(white) is None


def test_null_values_are_left_out(drawn: list[dict[str, Series]]) -> None:
    events = [{"event": "round", "stage": "m", "round": r, "loss": loss} for r, loss in ((1, 2.0), (2, None), (3, 1.0))]
    assert round_chart(events, "loss", "Loss", "loss") is not None
    assert drawn[0]["m"].points == [(1, 2.0), (3, 1.0)]
    assert round_chart(events, "val_accuracy", "Validation", "%") is None


def test_one_good_round_among_lost_ones_is_a_point_and_no_level(drawn: list[dict[str, Series]]) -> None:
    values = {"m": (None, 2.0, None), "other": (3.0, 2.0, 1.0)}
    events = [
        {"event": "round", "stage": stage, "round": number, "loss": loss}
        for stage, losses in values.items()
        for number, loss in enumerate(losses, 1)
    ]
    assert round_chart(events, "loss", "Loss", "loss") is not None
    assert drawn[0]["m"].points == [(2, 2.0)]
    assert not drawn[0]["m"].is_level


def test_stages_look_different_and_are_named_by_their_evaluation(make_run: MakeRun) -> None:
    stages = run_stages(make_run(rounds=1).events.read())
    assert [stage.label for stage in stages.values()] == ["zero-shot", "local-only", "PromptFL"]
    assert len({stage.look.colour for stage in stages.values()}) == 3
    assert len({stage.look.dash for stage in stages.values()}) == 3


def test_numbers_are_short() -> None:
    assert [one_decimal(value) for value in (50.0, 53.125, 0.0123, 0.0)] == ["50", "53.1", "0.012", "0"]
