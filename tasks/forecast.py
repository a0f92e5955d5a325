"""The task ``forecast``: stations forecast their own measurements with a frozen model of series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError, DataError, unknown_name
from promptfed.examples.base import Item
from promptfed.examples.series import FORECAST_CLASSES, Series, SeriesForm, WindowItem
from promptfed.printable import printable
from promptfed.scores import BETTER
from promptfed.tasks.base import TASKS, Task, TaskConfig
from promptfed.tasks.sources.fronts import stations as made_up
from promptfed.tasks.sources.stations import Station, filled, read_stations
from promptfed.types import ClientData, FederatedTask, Split

FRONTS, FOLDER = "fronts", "stations"


class ForecastConfig(TaskConfig):
    """Windows of the series, and who holds them."""

    variables: tuple[str, ...] | None = Field(None, min_length=1, description="columns to forecast; null: all")
    history: int = Field(168, ge=2, description="steps that are known")
    horizon: int = Field(24, ge=1, description="steps that are forecast")
    stride: int = Field(24, ge=1, description="steps from one window to the next; 24: a forecast each midnight")
    period: int = Field(24, ge=1, description="steps of the cycle that 'same hour yesterday' repeats")
    neighbours: int = Field(
        0, ge=0, description="other stations whose past is shown beside a station's own: it leaves these stations"
    )
    held_out: int = Field(2, ge=0, description="stations that take no part, for the figure 'new': the last ones")
    val_fraction: float = Field(0.2, gt=0, lt=0.5, description="share of the time for validation")
    test_fraction: float = Field(0.2, gt=0, lt=0.5, description="share of the time for tests, at the end")
    fill: int = Field(
        0, ge=0, description="gaps of up to so many steps are filled by the last value; 0: gaps are errors"
    )


def load_stations(config: RunConfig, options: ForecastConfig) -> tuple[list[Station], tuple[str, ...]]:
    """Return the stations of ``config``'s data without gaps, and notes on what was filled.

    Raises:
        ConfigError: The data are of another kind.
        DataError: They are missing, or do not fit.
    """
    kind, _, name = config.data.partition(":")
    if kind == FRONTS and not name:
        stations = made_up(config.partition_seed)
        if options.variables is not None:
            stations = [_chosen(station, options.variables) for station in stations]
    elif kind == FOLDER and name:
        stations = read_stations(name, options.variables)
    else:
        raise unknown_name("source of series", config.data, [FRONTS, f"{FOLDER}:FOLDER"])
    complete = [filled(station, options.fill) for station in stations]
    count = sum(number for _, number in complete)
    note = f"{count} missing values are filled by the last one before them (task.fill={options.fill})"
    return [station for station, _ in complete], (note,) if count else ()


def _chosen(station: Station, variables: Sequence[str]) -> Station:
    if absent := [name for name in variables if name not in station.variables]:
        raise unknown_name("variable", absent[0], station.variables)
    columns = [station.variables.index(name) for name in variables]
    return Station(station.name, tuple(variables), station.values[:, columns])


def build(config: RunConfig) -> FederatedTask:
    """Give each station its own windows: the first part of the time for training, then validation, then tests.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing, too short or do not fit.
    """
    options = validate(ForecastConfig, config.task_options, "task option")
    if config.shots != RunConfig.model_fields["shots"].default:
        raise ConfigError("--shots does not go with task 'forecast', whose windows have no classes: leave it out")
    stations, notes = load_stations(config, options)
    count = len(stations) - options.held_out
    if config.clients is not None and config.clients != count:
        raise ConfigError(
            f"--clients is {config.clients}, and {count} stations take part: leave it out, or choose who does not "
            f"(--set task.held_out={max(0, len(stations) - config.clients)})"
        )
    if count < 2:
        raise ConfigError(
            f"task option 'held_out' is {options.held_out}, and two of {len(stations)} stations must take part: give "
            f"{'fewer' if len(stations) > 2 else '0'} (--set task.held_out={max(0, len(stations) - 2)})"
        )
    if options.neighbours >= len(stations):
        raise ConfigError(
            f"task option 'neighbours' is {options.neighbours}, and each station has {len(stations) - 1} others"
        )
    form = SeriesForm(
        variables=stations[0].variables,
        history=options.history,
        horizon=options.horizon,
        period=options.period,
        neighbours=options.neighbours,
    )
    ends = _ends(stations[0], options)
    series = _with_context([_standardised(station, ends[0]) for station in stations], ends[0], form)
    clients = [_client(number, one, ends, options) for number, one in enumerate(series[:count])]
    rest = [_windows(one, ends[1], ends[2], options) for one in series[count:]]
    if options.neighbours:
        notes = (
            *notes,
            f"each station is shown the past of {options.neighbours} others (task.neighbours): these measurements "
            "leave the stations that made them, outside of what privacy options protect",
        )
    return FederatedTask(
        name=config.task,
        base_classes=FORECAST_CLASSES,
        new_classes=(),
        clients=tuple(clients),
        base_test=_split([item for data in clients for item in data.test.items]),
        new_test=_split([item for items in rest for item in items]),
        templates=form.prompts,
        notes=notes,
        form=form,
        partition=config.partition,
    )


def _ends(station: Station, options: ForecastConfig) -> tuple[int, int, int]:
    """Return the steps at which training, validation and tests end."""
    steps = len(station.values)
    test, validation = steps - int(steps * options.test_fraction), int(steps * options.val_fraction)
    ends = test - validation, test, steps
    start, parts = options.history, zip(("training", "validation", "test"), ends, strict=True)
    for part, end in parts:
        if not _starts(start, end, options):
            raise DataError(
                f"station '{printable(station.name)}' has {steps} steps, too few for a {part} window of "
                f"{options.history} + {options.horizon}: give longer series, or smaller --set task.history and "
                "task.horizon"
            )
        start = end
    return ends


def _starts(first: int, end: int, options: ForecastConfig) -> range:
    """Return where windows start whose future lies in ``first..end``, in step with the first row."""
    begin = -(-first // options.stride) * options.stride
    return range(begin, end - options.horizon + 1, options.stride)


def _standardised(station: Station, train: int) -> tuple[str, npt.NDArray[np.float32]]:
    """Return the name and the values of ``station``, with mean 0 and deviation 1 over its first ``train`` steps."""
    past = station.values[:train]
    deviation = past.std(0)
    if (flat := np.flatnonzero(deviation < 1e-12)).size:
        raise DataError(
            f"station '{printable(station.name)}' never changes in '{printable(station.variables[flat[0]])}' during "
            "training: leave the column out (--set 'task.variables=[A,B]')"
        )
    return station.name, ((station.values - past.mean(0)) / deviation).astype(np.float32)


def _with_context(
    stations: Sequence[tuple[str, npt.NDArray[np.float32]]], train: int, form: SeriesForm
) -> list[Series]:
    """Return the series with their neighbours' values beside them.

    A station's neighbours are those whose past says most of it: by the correlation of what deviates from the usual at
    that hour, at the best lag of up to a horizon, the mean over variables; all from the training part. They stand in
    the order of their lags.
    """
    if not form.neighbours:
        return [Series(name, values, values[:, :0]) for name, values in stations]
    unusual = [_unusual(values[:train], form.period) for _, values in stations]
    series = []
    for number, (name, values) in enumerate(stations):
        merits = {
            other: _leads(unusual[other], unusual[number], form.horizon)
            for other in range(len(stations))
            if other != number
        }
        best = sorted(merits, key=lambda other: (-merits[other][0], other))[: form.neighbours]
        nearest = sorted(best, key=lambda other: (merits[other][1], other))
        series.append(Series(name, values, np.concatenate([stations[other][1] for other in nearest], 1)))
    return series


def _unusual(values: npt.NDArray[np.float32], period: int) -> npt.NDArray[np.float64]:
    """Return how ``values`` deviate from their mean at the same place of the cycle."""
    deviating = values.astype(np.float64)
    for place in range(period):
        deviating[place::period] -= deviating[place::period].mean(0)
    return deviating


def _leads(leader: npt.NDArray[np.float64], follower: npt.NDArray[np.float64], most: int) -> tuple[float, int]:
    """Return the best mean correlation of ``follower`` with ``leader`` some steps before, and how many."""
    best = -1.0, 0
    for lag in range(1, most + 1):
        early, late = leader[:-lag], follower[lag:]
        with np.errstate(invalid="ignore"):
            each = (early * late).mean(0) / np.sqrt((early**2).mean(0) * (late**2).mean(0))
        best = max(best, (float(np.nan_to_num(each).mean()), lag))
    return best


def _windows(series: Series, first: int, end: int, options: ForecastConfig) -> list[Item]:
    return [
        WindowItem(series, start, options.history, options.horizon)
        for start in _starts(max(first, options.history), end, options)
    ]


def _client(number: int, series: Series, ends: tuple[int, int, int], options: ForecastConfig) -> ClientData:
    bounds = zip((0, *ends), ends, strict=False)
    train, val, test = (_split(_windows(series, first, end, options)) for first, end in bounds)
    return ClientData(number, series.station, tuple(range(len(FORECAST_CLASSES))), train, val, test)


def _split(items: Sequence[Item]) -> Split:
    return Split(tuple(items), torch.full((len(items),), BETTER, dtype=torch.int64))


@TASKS.register("forecast")
class Forecast(Task):
    """Forecast what stations measure, each its own; the last stations are new ones."""

    Config = ForecastConfig
    partitions: ClassVar[tuple[str, ...]] = ("domain",)
    data: ClassVar[str] = FRONTS
    method: ClassVar[str] = "metepfl"
    rounds: ClassVar[int] = 10
    backbone: ClassVar[str] = "tst"
    measures: ClassVar[tuple[str, ...]] = ("mae", "rmse")
    selection: ClassVar[str] = "mae"
    baselines: ClassVar[tuple[str, ...]] = ("persistence", "yesterday", "affine_output", "zero_shot", "local_only")
    build = staticmethod(build)
