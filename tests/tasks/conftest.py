"""Small folders of pictures, an empty cache for each test, and the task built from options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
