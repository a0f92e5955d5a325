"""Device and precision of a frozen model, from the user's words."""

from __future__ import annotations

import torch

from promptfed.errors import ConfigError, unknown_name

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_dtype(precision: str) -> torch.dtype:
    """Return the torch type of a precision.

    Raises:
        ConfigError: It is not one of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    return PRECISIONS[precision]


def pick_device(device: str) -> torch.device:
    """Return the torch device for ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` (a GPU if there is one).

    Raises:
        ConfigError: The word is unknown, or this machine does not have the GPU.
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
