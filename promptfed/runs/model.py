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


def check_same_model(run: Path, record: Mapping[str, Any], model: FrozenModel, basis: str | None = None) -> None:
    """Check ``model``, and ``basis`` if it is given, against the ``record`` of ``run`` (none in old runs).

    Raises:
        RunError: It is another model. The same weights in another file are the same model. Or ``check_same_basis``.
    """
    if basis is not None:
        check_same_basis(run, record, basis)
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


def check_same_basis(run: Path, record: Mapping[str, Any], basis: str) -> None:
    """Check the directions of a method's prompt (``Method.basis``) against the ``record`` of ``run``.

    Raises:
        RunError: They are others. A run that kept nothing of them is not compared.
    """
    if record.get("basis", basis) != basis:
        raise RunError(
            f"run '{run}' was trained with directions of SHA-256 {printable(record['basis'], 12)}, and this promptfed "
            f"has others ({basis[:12] or 'none'}): use the version that trained it, or train again"
        )
