"""The pictures draw the numbers of the log."""

import base64
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from promptfed.report.figures import client_accuracies, client_bars, data_uri, looks, query_curves, round_curves
from promptfed.runs.directory import RunDirectory
from promptfed.runs.ledger import query_curve

MakeRun = Callable[..., RunDirectory]


def test_curves_hold_the_round_events(make_run: MakeRun) -> None:
    figure = round_curves(make_run(rounds=3).events.read(), "loss", "training loss")
    assert figure is not None
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert set(lines) == {"zero-shot", "local-only", "PromptFL"}
    assert list(lines["PromptFL"].get_xdata()) == [1, 2, 3]
    assert list(lines["PromptFL"].get_ydata()) == [1.0, 1 / 2, 1 / 3]


def test_fractions_become_percent_and_a_single_round_a_level(make_run: MakeRun) -> None:
    figure = round_curves(make_run(rounds=2).events.read(), "val_accuracy", "%", percent=True)
    assert figure is not None
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].get_lines()}
    assert lines["PromptFL"] == pytest.approx([45, 50])
    assert lines["zero-shot"] == pytest.approx([45, 45])


def test_accuracy_against_queries_adds_up_the_clients_and_skips_rounds_nobody_validated() -> None:
    def client(stage: str, round: int, asked: int) -> dict[str, object]:
        return {"event": "client", "stage": stage, "round": round, "oracle_queries": asked}

    def end(stage: str, round: int, accuracy: float | None) -> dict[str, object]:
        return {"event": "round", "stage": stage, "round": round, "val_accuracy": accuracy}

    events = [client("zero_shot", 1, 40), end("zero_shot", 1, 0.6)]
    for round, accuracy in ((1, 0.5), (2, None), (3, 0.75)):
        events += [client("fedbpt", round, 10), client("fedbpt", round, 20), end("fedbpt", round, accuracy)]
    assert query_curve(events, "fedbpt") == [(30, 0.5), (90, 0.75)]
    figure = query_curves(events)
    assert figure is not None
    level, line = figure.axes[0].get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([30, 90], [50, 75])
    assert list(level.get_ydata()) == [60, 60]
    white = [{**event, "oracle_queries": 0} for event in events]
    assert query_curve(white, "fedbpt") == []
    assert query_curves(white) is None


def test_null_values_are_left_out() -> None:
    events = [{"event": "round", "stage": "m", "round": r, "loss": loss} for r, loss in ((1, 2.0), (2, None), (3, 1.0))]
    figure = round_curves(events, "loss", "loss")
    assert figure is not None
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [1, 3]
    assert round_curves(events, "val_accuracy", "accuracy") is None


def test_one_good_round_among_lost_ones_is_a_point_and_no_level() -> None:
    values = {"m": (None, 2.0, None), "other": (3.0, 2.0, 1.0)}
    events = [
        {"event": "round", "stage": stage, "round": number, "loss": loss}
        for stage, losses in values.items()
        for number, loss in enumerate(losses, 1)
    ]
    figure = round_curves(events, "loss", "loss")
    assert figure is not None
    lines = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].get_lines()}
    assert lines == {"m": [2], "other": [1, 2, 3]}


def test_stages_look_different_and_are_named_by_their_evaluation(make_run: MakeRun) -> None:
    found = looks(make_run(rounds=1).events.read())
    assert [look.label for look in found.values()] == ["zero-shot", "local-only", "PromptFL"]
    assert len({look.colour for look in found.values()}) == 3
    assert len({look.line for look in found.values()}) == 3


def test_bars_are_the_last_evaluation(make_run: MakeRun) -> None:
    run = make_run(clients=2)
    run.events.write(
        "evaluation", stage="promptfl", name="PromptFL", local=[{"client": 0, "name": "a", "accuracy": 0.25}]
    )
    assert client_accuracies(run.events.read())["promptfl"] == {"a": 0.25}
    figure = client_bars(run.events.read())
    assert figure is not None
    widths = sorted(round(bar.get_width(), 3) for bar in figure.axes[0].patches if bar.get_width() == bar.get_width())
    assert widths == [25, 50, 50, 70, 70]


def test_many_clients_become_sorted_lines(make_run: MakeRun) -> None:
    figure = client_bars(make_run(clients=60, rounds=1).events.read())
    assert figure is not None
    heights = list(figure.axes[0].get_lines()[-1].get_ydata())
    assert len(heights) == 60
    assert heights == sorted(heights)


def test_nothing_to_draw_is_none() -> None:
    assert client_bars([]) is None
    assert round_curves([], "loss", "loss") is None


def test_picture_is_valid_svg_and_the_same_every_time(make_run: MakeRun) -> None:
    events = make_run(clients=3).events.read()
    first, second = (client_bars(events) for _ in range(2))
    assert first is not None
    assert second is not None
    address = data_uri(first)
    assert address == data_uri(second)
    kind, data = address.split(",")
    assert kind == "data:image/svg+xml;base64"
    assert ElementTree.fromstring(base64.b64decode(data)).tag == "{http://www.w3.org/2000/svg}svg"


def test_large_pictures_become_png() -> None:
    figure = Figure()
    figure.add_subplot().scatter(range(4000), range(4000))
    kind, data = data_uri(figure).split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
