from __future__ import annotations

from typing import Any

import pytest

from promptfed.errors import ConfigError
from promptfed.serving.limits import ServeLimits


@pytest.mark.parametrize(
    "wrong", [{"max_batch": 0}, {"max_wait_ms": -1.0}, {"max_file_mb": 0.0}, {"answer_seconds": float("nan")}]
)
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ConfigError, match=f"{name} is {value}: give a number, at least"):
        ServeLimits(**wrong)


def test_limits_are_told_in_bytes_and_pixels() -> None:
    limits = ServeLimits(max_file_mb=1.5, max_megapixels=0.5, max_wait_ms=0)
    assert (limits.file_bytes, limits.request_bytes, limits.pixels) == (1_500_000, 32_000_000, 500_000)
