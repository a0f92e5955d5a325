"""What the frozen model was asked: what a white box read or encoded, queries of a black box, and what those cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

ENCODER_CALLS = ("image_encoder_calls", "text_encoder_calls")
READINGS = ("model_rows", "model_tokens")


@dataclass(frozen=True)
class Usage:
    """Counts that add up and subtract. Encoder calls count images and texts, not batches.

    ``model_rows`` and ``model_tokens``: rows of tokens that a language model with gradients read, and their tokens
    without an insert. A token that passes through the upper layers alone, because what the lower ones make of its text
    is known, counts as the share of the upper layers.
    ``oracle_queries``: answers that were asked for (a candidate prompt on an example, a text to be generated);
    ``oracle_calls``: requests that really went to the black box; ``oracle_cache_hits``: answers that were already
    known; ``oracle_retries``: calls that failed and were made again; ``labels_floored``: scores of labels that the
    black box did not report and that were set to a floor; ``oracle_unanswered``: answers that said nothing of use, or
    were refused; tokens as the black box counts them, ``usd`` US dollars at
    the prices given.
    """

    image_encoder_calls: int = 0
    text_encoder_calls: int = 0
    oracle_queries: int = 0
    oracle_calls: int = 0
    oracle_cache_hits: int = 0
    oracle_retries: int = 0
    labels_floored: int = 0
    oracle_unanswered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    model_rows: int = 0
    model_tokens: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, other: Self) -> Self:
        return type(self)(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)})

    def divided(self, parts: int) -> Self:
        """Return an even share of one of ``parts``, counts rounded."""
        shares = {f.name: getattr(self, f.name) / parts for f in fields(self)}
        return type(self)(**{name: share if name == "usd" else round(share) for name, share in shares.items()})

    def recorded(self) -> dict[str, Any]:
        """For an event or a checkpoint: the encoder calls, and what else is not zero."""
        return {name: value for name, value in asdict(self).items() if value or name in ENCODER_CALLS}

    def shown(self) -> dict[str, Any]:
        """For files that name every count: all but a language model's, which are named where there are any."""
        return {name: value for name, value in asdict(self).items() if value or name not in READINGS}


@dataclass(frozen=True)
class Work:
    """How the work of one kind of white box is shown.

    Attributes:
        columns: Field of ``Usage`` -> what it counts, the head of its column.
        verb: What the model does with these.
        note: What the columns are.
        once: The row of what is computed once for all stages; empty: nothing is.
    """

    columns: Mapping[str, str]
    verb: str
    note: str
    once: str = ""

    def cells(self, usage: Usage) -> list[str]:
        """Return the counts under ``columns``."""
        return [f"{getattr(usage, name):,}" for name in self.columns]

    def words(self, cost: Mapping[str, Any]) -> str:
        """Return ``"encoded 120 images, 30 texts"``, from the cost in a run's metrics."""
        return f"{self.verb} {', '.join(f'{cost.get(name) or 0:,} {what}' for name, what in self.columns.items())}"


ENCODING = Work(
    dict(zip(ENCODER_CALLS, ("images", "texts"), strict=True)),
    "encoded",
    "images and texts: how many went through the encoders",
    "features (shared)",
)
"""Of a dual encoder."""
READING = Work(
    dict(zip(READINGS, ("texts", "tokens"), strict=True)),
    "read",
    "texts and tokens: how much the language model read, what is trained not counted",
)
"""Of a language model."""
FORECASTING = Work(
    dict(zip(READINGS, ("series", "steps"), strict=True)),
    "read",
    "series and steps: how much the model of series read, once for each forecast",
)
"""Of a forecaster."""
ACTING = Work(
    dict(zip(READINGS, ("contexts", "slots"), strict=True)),
    "read",
    "contexts and slots: what the policy read, each slot again with every action behind it",
)
"""Of a policy."""
