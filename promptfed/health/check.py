"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "FAIL"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        part: What it belongs to: "packages", "machine", "places", "models", "extras", "network" or "environment".
        what: What was looked at.
        state: "ok"; "note": something is missing that not everybody needs; "FAIL": something is broken.
        says: What there is.
        fix: What to type or to do; empty: nothing.
    """

    part: str
    what: str
    state: State
    says: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.state:<4} {self.what}: {self.says}" + (f" -> {self.fix}" if self.fix else "")
