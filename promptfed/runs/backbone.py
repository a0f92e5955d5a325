"""Which frozen model a run was trained on: known by its fingerprint, wherever its weights lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptfed.errors import RunError
from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.backbones.base import Backbone


def has_fingerprint(record: Mapping[str, Any]) -> bool:
    """Return whether the ``record`` that a run keeps in partition.json holds its backbone's fingerprint."""
    own = record.get("backbone")
    return isinstance(own, dict) and own.get("fingerprint") is not None


def check_same_backbone(run: Path, record: Mapping[str, Any], backbone: Backbone) -> None:
    """Check ``backbone`` against the ``record`` that ``run`` keeps of its own (in partition.json; none in old runs).

    Raises:
        RunError: It is another model. The same weights in another file are the same model.
    """
    if not has_fingerprint(record) or record["backbone"]["fingerprint"] == backbone.fingerprint:
        return
    own = record["backbone"]
    raise RunError(
        f"run '{run}' was trained on backbone '{printable(own.get('name', ''), 200)}' (fingerprint "
        f"{printable(own['fingerprint'], 12)}), and '{printable(backbone.name, 200)}' is another model (fingerprint "
        f"{backbone.fingerprint[:12]}): give the same weights by --backbone, at the same --precision and --device"
    )
