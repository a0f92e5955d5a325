"""A run knows the directions that it was trained with."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptfed.errors import RunError
from promptfed.runs.model import check_same_basis


def test_other_directions_are_refused_in_one_line() -> None:
    run = Path("runs/one")
    check_same_basis(run, {"basis": "a" * 64}, "a" * 64)
    check_same_basis(run, {}, "b" * 64)  # an old run
    for basis, name in (("b" * 64, "b" * 12), ("", "none")):
        with pytest.raises(
            RunError, match=rf"SHA-256 a{{11}}…, and this promptfed has others \({name}\): use"
        ) as refusal:
            check_same_basis(run, {"basis": "a" * 64}, basis)
        assert "\n" not in str(refusal.value)
