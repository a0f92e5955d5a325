"""How models that forecast series are called, for whoever need not load one."""

from __future__ import annotations

FORECASTERS = {
    "tst": "a small transformer for series, bundled with promptfed; no network",
    "fracast": "Fracast from the package index, for hourly and other series; needs pip install 'promptfed[forecast]'",
}
"""Name -> description, for ``promptfed list backbones``."""


def is_forecaster(backbone: str) -> bool:
    """Return whether a backbone's name is that of a model that forecasts series."""
    return backbone in FORECASTERS
