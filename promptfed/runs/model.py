"""The frozen model that a run was trained on, identified by its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptfed.errors import RunError
from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.frozen_model import FrozenModel


def has_fingerprint(record: Mapping[str, Any]) -> bool:
    """Return whether the ``record`` in a run's partition.json holds its backbone's fingerprint."""
    backbone = record.get("backbone")
    return isinstance(backbone, dict) and backbone.get("fingerprint") is not None


def check_same_model(run: Path, record: Mapping[str, Any], model: FrozenModel) -> None:
    """Check ``model`` against the ``record`` of ``run`` (in partition.json; none in old runs).

    Raises:
        RunError: It is another model. The same weights in another file are the same model.
    """
    [key] = model.describe()
    about = record.get(key)
    trained_with = about.get("fingerprint") if isinstance(about, dict) else None
    if trained_with is None or trained_with == model.fingerprint:
        return
    if key == "oracle":
        raise RunError(
            f"run '{run}' was trained with another oracle than '{model.name}' is now (fingerprint "
            f"{printable(trained_with, 12)}, not {model.fingerprint[:12]}): its files, or the way promptfed asks it, "
            "have changed; bring the old ones back, or train again"
        )
    name = printable(record[key].get("name", ""), 200)
    raise RunError(
        f"run '{run}' was trained on backbone '{name}' (fingerprint {printable(trained_with, 12)}), and "
        f"'{printable(model.name, 200)}' is another model (fingerprint {model.fingerprint[:12]}): give the same "
        "weights by --backbone, at the same --precision"
    )
