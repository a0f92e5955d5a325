"""Clients stand worst first, with intervals; one with a single class is marked."""

from collections.abc import Callable
from typing import Any

from promptfed.report.client_section import MOST_BARS, client_charts, client_scores, client_table, worst_first
from promptfed.report.stage_looks import run_stages
from promptfed.runs.directory import RunDirectory

MakeRun = Callable[..., RunDirectory]


def events_of(scores: dict[str, list[float | None]], items: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "event": "evaluation", "stage": stage, "name": stage,
            "local": [
                {"client": k, "name": f"site {k}", "accuracy": value, "all_classes": 0.5, "items": items}
                for k, value in enumerate(values)
            ],
        }
        for stage, values in scores.items()
    ]  # fmt: skip


EVENTS = events_of({"zero_shot": [0.2, 0.3, None], "mine": [0.75, 0.5, None]})


def test_the_last_evaluation_counts() -> None:
    scores = client_scores([*EVENTS, *events_of({"mine": [0.1, 0.9, 0.4]})])
    assert [row["accuracy"] for row in scores["mine"].values()] == [0.1, 0.9, 0.4]
    assert worst_first(scores, "mine") == [0, 2, 1]
    assert worst_first(client_scores(EVENTS), "mine") == [1, 0, 2]


def test_bars_are_of_the_method_and_marks_of_the_baselines() -> None:
    [chart] = client_charts(client_scores(EVENTS), run_stages(EVENTS), "mine")
    assert "site 1: 50 (35.2 to 64.8), n 40. site 0: 75 (59.8 to 85.8), n 40. site 2: one class." in chart.description


def test_many_clients_get_a_line_over_all(make_run: MakeRun) -> None:
    events = make_run(clients=60, rounds=1).events.read()
    bars, line = client_charts(client_scores(events), run_stages(events), "promptfl")
    assert bars.title == f"Local test accuracy of the {MOST_BARS} clients with the lowest"
    assert "PromptFL: from 50 at 1 to 89.3 at 60, lowest 50 at 1, highest 89.3 at 60." in line.description


def test_the_table_says_what_a_client_holds() -> None:
    partition = {"clients": [{"client": 1, "train": [3, 0, 2]}, {"client": 0, "train": [1, 1, 1]}]}
    columns, rows = client_table(client_scores(EVENTS), run_stages(EVENTS), "mine", partition)
    assert columns == ["classes", "train", "test", "zero_shot", "zero_shot, all classes", "mine", "mine, all classes"]
    assert [name for name, _ in rows] == ["site 1", "site 0", "site 2"]
    assert rows[0][1][:3] == ["2", "5", "40"]
    assert rows[0][1][5] == "50.0 [35.2, 64.8]"
    assert rows[2][1][:3] == ["-", "-", "40"]
    assert rows[2][1][5] == "one class"


def test_nothing_evaluated_is_nothing_to_draw() -> None:
    assert client_charts({}, {}, "mine") == []
    assert client_table({}, {}, "mine", None)[1] == []
