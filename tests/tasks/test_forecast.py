"""Windows of stations: who holds which, in whose units, beside which neighbours; what is refused."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.examples.series import FORECAST_CLASSES, WindowItem
from promptfed.measures.base import build_measure
from promptfed.tasks import TASKS
from promptfed.tasks.sources.fronts import LAG, stations
from promptfed.types import NO_PROMPT

from ..small_series import method_of, setup_of, task_of

BEIJING = Path(os.environ.get("PROMPTFED_DATA", "../shared/data")) / "beijing"


def folder_of(place: Path, tables: dict[str, list[list[object]]]) -> str:
    for name, rows in tables.items():
        with (place / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return f"stations:{place}"


def rows_of(count: int, phase: float, columns: int = 1) -> list[list[object]]:
    head: list[object] = [f"v{k}" for k in range(columns)]
    return [head, *[[float(np.sin(step / 3 + phase + k)) for k in range(columns)] for step in range(count)]]


def build(data: str, **options: object):
    small = {"history": 12, "horizon": 6, "stride": 6, "held_out": 0, **options}
    return TASKS["forecast"].build(build_config({"task": "forecast", "data": data, "task_options": small}))


def test_the_bundled_fronts_go_from_west_to_east():
    made = stations(0)
    assert np.array_equal(made[3].values, stations(0)[3].values)
    assert not np.array_equal(made[3].values, stations(1)[3].values)
    west, east = (np.diff(made[k].values[:, 0]) for k in (2, 3))
    leads = [np.corrcoef(west[: len(west) - lag], east[lag:])[0, 1] for lag in range(1, 12)]
    assert int(np.argmax(leads)) + 1 == LAG


def test_windows_do_not_cross_into_the_next_part():
    task = task_of()
    assert task.base_classes == FORECAST_CLASSES
    assert [data.name for data in task.clients] == [f"station {k}" for k in range(1, 7)]
    assert {item.series.station for item in task.new_test.items} == {"station 7", "station 8"}
    for data in task.clients:
        last = 0
        for split in (data.train, data.val, data.test):
            starts = [item.start for item in split.items]
            assert starts[0] >= last
            assert all(start % 24 == 0 for start in starts)
            assert split.labels.tolist() == [1] * len(split)
            last = starts[-1] + 24
        assert last <= 3600


def test_values_are_in_units_of_the_training_part():
    data = task_of().clients[0]
    values = data.train.items[0].series.values
    np.testing.assert_allclose(values[:2160].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(values[:2160].std(0), 1, atol=1e-4)


def test_neighbours_are_those_that_know_before():
    task = task_of(neighbours=2)
    own, first = (task.clients[k].train.items[0].series for k in (4, 3))
    np.testing.assert_array_equal(own.context[:, :2], first.values)
    assert own.context.shape == (3600, 4)
    item = task.clients[4].train.items[0]
    assert item.past.shape == (168, 2)
    assert item.future.shape == (24, 2)
    assert item.context.shape == (168, 4)


def test_an_identity_changes_with_what_is_seen():
    series = task_of().clients[0].train.items[0].series
    one, same, next_one = (WindowItem(series, start, 48, 24) for start in (240, 240, 264))
    assert one.content_id() == same.content_id() != next_one.content_id()
    assert one.name == "station 1, step 240"


def test_a_folder_of_stations(tmp_path):
    data = folder_of(tmp_path, {"a": rows_of(200, 0, 2), "b": rows_of(200, 1, 2), "c": rows_of(200, 2, 2)})
    task = build(data, held_out=1)
    assert [client.name for client in task.clients] == ["a", "b"]
    assert {item.series.station for item in task.new_test.items} == {"c"}
    assert task.form.variables == ("v0", "v1")
    assert build(data, variables=["v1"]).form.variables == ("v1",)


@pytest.mark.parametrize(("tables", "options", "words"), [
    ({"a": rows_of(200, 0)}, {}, "holds 1 CSV files"),
    ({"a": rows_of(200, 0), "b": rows_of(190, 0)}, {}, "has 190 rows, and .*has 200"),
    ({"a": rows_of(200, 0), "b": rows_of(200, 0, 2)}, {}, "b.csv' has columns v0, v1, and .*a.csv' has v0"),
    ({"a": rows_of(20, 0), "b": rows_of(20, 0)}, {}, "has 20 steps, too few for a training window of 12 \\+ 6"),
    ({"a": [["v0"], ["x"]], "b": rows_of(200, 0)}, {}, "a.csv' line 2, column 'v0' is 'x', which is no number"),
    ({"a": [["v0"], *[[1.0]] * 50, [""], *[[2.0]] * 149], "b": rows_of(200, 0)}, {},
     "gap of one step in 'v0' from row 51"),
    ({"a": [["v0"], *[[1.0]] * 200], "b": rows_of(200, 0)}, {}, "never changes in 'v0'"),
    ({"a": rows_of(200, 0), "b": rows_of(200, 0)}, {"held_out": 1}, "two of 2 stations must take part"),
    ({"a": rows_of(200, 0), "b": rows_of(200, 0)}, {"neighbours": 2}, "each station has 1 others"),
    ({"a": rows_of(200, 0), "b": rows_of(200, 0)}, {"variables": ["w"]}, "has no column 'w'"),
    ({"a": [["time", "v0"], ["2020-01-01T00", 1], ["2020-01-01T01", 2], ["2020-01-01T05", 3]], "b": rows_of(9, 0)}, {},
     "has a gap: line 4 .* is 14400 seconds after"),
])  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line(tmp_path, tables, options, words):
    with pytest.raises((DataError, ConfigError), match=words) as caught:
        build(folder_of(tmp_path, tables), **options)
    assert "\n" not in str(caught.value)


def test_short_gaps_are_filled_where_that_is_asked_for(tmp_path):
    rows = rows_of(200, 0)
    rows[51] = [""]
    task = build(folder_of(tmp_path, {"a": rows, "b": rows_of(200, 1)}), fill=2)
    values = task.clients[0].train.items[0].series.values
    assert values[50, 0] == values[49, 0]
    assert not np.isnan(values).any()
    assert "1 missing values are filled" in task.notes[0]


@pytest.mark.parametrize(("data", "words"), [
    ("rain", "fronts, stations:FOLDER"), ("stations:nowhere", "nowhere' does not exist: give a folder with a CSV"),
])  # fmt: skip
def test_unknown_data(data, words):
    with pytest.raises((ConfigError, DataError), match=words):
        build(data)


@pytest.mark.parametrize(("options", "words"), [({"shots": 4}, "--shots"), ({"clients": 3}, "held_out=5")])
def test_flags_that_have_no_meaning(options, words):
    with pytest.raises(ConfigError, match=words):
        TASKS["forecast"].build(build_config({"task": "forecast", "data": "fronts", **options}))


@pytest.mark.skipif(not BEIJING.is_dir(), reason="needs PROMPTFED_DATA/beijing, a CSV for each of the 12 stations")
def test_the_floor_of_beijing():
    """The measured floor: the last value and the same hour yesterday, mean over 12 stations and 4 variables."""
    options = {"variables": ["TEMP", "PRES", "DEWP", "WSPM"], "held_out": 0, "fill": 200}
    task = TASKS["forecast"].build(
        build_config({"task": "forecast", "data": f"stations:{BEIJING}", "task_options": options})
    )
    setup = setup_of(task)
    for name, mae, rmse in (("persistence", 0.407, 0.551), ("yesterday", 0.413, 0.575)):
        scores = method_of(name, setup).logits(NO_PROMPT, NO_PROMPT, (), task.base_test)
        figures = [build_measure(m).figure(scores, torch.ones(len(scores))) for m in ("mae", "rmse")]
        assert figures == pytest.approx([mae, rmse], abs=0.03)  # hours at which a forecast begins were not written down
