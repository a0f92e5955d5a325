"""What one client is dealt."""

from __future__ import annotations

from dataclasses import dataclass

from promptfed.tasks.few_shot import FewShotSplit


@dataclass(frozen=True)
class ClientAssignment:
    """A client's share of the data as positions in the source's samples."""

    name: str
    drawn: FewShotSplit
    test: list[int]
    domain: str = ""
