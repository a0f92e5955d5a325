"""Fields of a stage's test figures in the event log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptfed.evaluation import Evaluation


def evaluation_event(stage: str, found: Evaluation, names: Mapping[int, str]) -> dict[str, Any]:
    """Return the fields of the event ``evaluation``; ``names``: client -> its name."""
    figures = found.figures
    return {
        "stage": stage,
        "name": figures.name,
        "local": [
            {
                "client": client,
                "name": names[client],
                "accuracy": score.local,
                "all_classes": score.local_all,
                "items": score.items,
            }
            for client, score in found.local.items()
        ],
        "local_mean": figures.local,
        "local_std": figures.local_std,
        "local_all": figures.local_all,
        "base": figures.base,
        "new": figures.new,
        "hm": figures.hm,
        "domains": dict(figures.domains),
        **({"measures": figures.measures} if figures.measures else {}),
    }
