"""How models that act are called, for whoever need not load one."""

from __future__ import annotations

POLICIES = {"dt": "a small decision transformer for allocations, bundled with promptfed; no network"}
"""Name -> description, for ``promptfed list backbones``."""


def is_policy(backbone: str) -> bool:
    """Return whether a backbone's name is that of a model that acts."""
    return backbone in POLICIES
