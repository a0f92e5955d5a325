"""Episodes of allocations in a cell: what was logged, and what is to be played."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from promptfed.allocation.cell import Cell
from promptfed.examples.base import Item
from promptfed.prompt_template import PromptTemplate

ALLOCATION_CLASSES = ("no better than preferred, equal shares", "better than preferred, equal shares")
"""The classes of episodes: every one is of the second, so accuracy is the share in which that rule is beaten."""
Numbers = npt.NDArray[np.float32]


class EpisodeForm(PromptTemplate):
    """What all episodes of a task look like, the same for every client; no text is put together by it.

    Attributes:
        steps: Slots of an episode.
        target: The mean reward of a slot that a policy is asked for.
    """

    steps: int = Field(50, ge=5)
    target: float = Field(0.6, ge=-1.2, le=1)

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is said of texts."""
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if name not in PromptTemplate.model_fields}


@dataclass(frozen=True, eq=False)
class Log:
    """What was seen, done and earned in some slots in a row.

    ``observations`` and ``actions`` ``(slots, FEATURES)``, ``rewards`` ``(slots,)``.
    """

    observations: Numbers
    actions: Numbers
    rewards: Numbers

    @property
    def returns(self) -> Numbers:
        """The mean reward of a slot from each slot on, ``(slots,)``."""
        left = np.arange(len(self.rewards), 0, -1)
        to_come: Numbers = (np.cumsum(self.rewards[::-1], dtype=np.float64)[::-1] / left).astype(np.float32)
        return to_come

    def part(self, first: int, slots: int) -> Log:
        """Return so many slots from ``first`` on."""
        place = slice(first, first + slots)
        return Log(self.observations[place], self.actions[place], self.rewards[place])

    def best_part(self, slots: int) -> Log:
        """Return the slots in a row with the highest reward, the first of them if several have it."""
        sums = np.convolve(self.rewards.astype(np.float64), np.ones(slots), "valid")
        return self.part(int(sums.argmax()), slots)


@dataclass(frozen=True, eq=False)
class EpisodeItem(Item):
    """An episode in ``cell``, of which what comes depends on ``seed``.

    Attributes:
        cell: Where it is played.
        seed: By which tiles and radio are drawn.
        steps: Slots.
        piece: The best piece of what was logged in this cell, which a trajectory prompt shows.
        log: What was done in this episode; None: it is to be played.
    """

    cell: Cell
    seed: int
    steps: int
    piece: Log
    log: Log | None = None

    @property
    def name(self) -> str:
        return f"{self.cell.name}, episode {self.seed}"

    def content_id(self) -> str:
        cell = self.cell
        digest = hashlib.sha256(f"{self.seed}|{self.steps}|{cell.rate!r}|{self.log is not None}".encode())
        for array in (cell.preferred, cell.snr, cell.gaze):
            digest.update(np.ascontiguousarray(array).tobytes())
        for log in (self.piece, self.log):
            for numbers in (log.observations, log.actions, log.rewards) if log is not None else ():
                digest.update(np.ascontiguousarray(numbers).tobytes())
        return digest.hexdigest()
