"""Windows of a series: what was measured until now, and what is to be forecast."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from promptfed.examples.base import Item
from promptfed.prompt_template import PromptTemplate

FORECAST_CLASSES = ("worse than persistence", "better than persistence")
"""The classes of windows: every one is of the second, so accuracy is the share in which the last value is beaten."""
Values = npt.NDArray[np.float32]


class SeriesForm(PromptTemplate):
    """What all windows of a task look like, the same for every client; no text is put together by it.

    Attributes:
        variables: What is measured, and forecast.
        history: Steps until now.
        horizon: Steps that are forecast.
        period: Steps after which a cycle begins anew, such as 24 hours.
        neighbours: How many other series are shown beside each.
    """

    variables: tuple[str, ...] = Field(min_length=1)
    history: int = Field(ge=2)
    horizon: int = Field(ge=1)
    period: int = Field(24, ge=1)
    neighbours: int = Field(0, ge=0)

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is said of texts."""
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if name not in PromptTemplate.model_fields}


@dataclass(frozen=True, eq=False)
class Series:
    """What one station measured, in units of its own past: mean 0 and deviation 1 in what clients train on.

    ``values`` ``(steps, variables)``; ``context`` ``(steps, neighbours * variables)``, the neighbours' values.
    """

    station: str
    values: Values
    context: Values


@dataclass(frozen=True, eq=False)
class WindowItem(Item):
    """A window of ``series``: the ``history`` steps before ``start``, and the ``horizon`` steps from there."""

    series: Series
    start: int
    history: int
    horizon: int

    @property
    def name(self) -> str:
        return f"{self.series.station}, step {self.start}"

    @property
    def past(self) -> Values:
        """What was measured, ``(history, variables)``."""
        return self.series.values[self.start - self.history : self.start]

    @property
    def future(self) -> Values:
        """What is to be forecast, ``(horizon, variables)``."""
        return self.series.values[self.start : self.start + self.horizon]

    @property
    def context(self) -> Values:
        """What the neighbours measured, ``(history, neighbours * variables)``."""
        return self.series.context[self.start - self.history : self.start]

    def content_id(self) -> str:
        digest = hashlib.sha256(f"{self.history}|{self.horizon}|{self.series.context.shape[1]}".encode())
        for part in (self.past, self.future, self.context):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()
