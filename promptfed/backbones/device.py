"""Where a frozen model lives (device) and how wide its numbers are (precision), from the words a user types."""

from __future__ import annotations

import torch

from promptfed.errors import ConfigError, unknown_name

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_dtype(precision: str) -> torch.dtype:
    """Raises ConfigError for a precision that is not one of ``PRECISIONS``."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    return PRECISIONS[precision]


def pick_device(device: str) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for a GPU if there is one.

    Raises ConfigError for another word, and for a GPU that this machine does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise unknown_name("device", device, ("cpu", "cuda", "auto"))
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device '{device}' is not there: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return torch.device(device)
