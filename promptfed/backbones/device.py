"""Device and precision of a frozen model, from the user's words."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext

import torch

from promptfed.errors import ConfigError, unknown_name
from promptfed.printable import printable

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

QUANTIZED = ("int8", "int4")
"""Formats in which bitsandbytes stores the linear layers of a language model on CUDA."""


def pick_dtype(precision: str) -> torch.dtype:
    """Return the torch type of a precision.

    Raises:
        ConfigError: It is not one of ``PRECISIONS``.
    """
    if precision in QUANTIZED:
        raise ConfigError(
            f"precision '{precision}' is for language models with gradients (--backbone lm:...) on CUDA: use float32, "
            "bfloat16 or float16"
        )
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    return PRECISIONS[precision]


DEVICES = ("cpu", "cuda", "cuda:1", "auto")
"""Examples of all that ``pick_device`` takes."""


def pick_device(device: str) -> torch.device:
    """Return the torch device for ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` (a GPU if there is one).

    Raises:
        ConfigError: The word is unknown, or this machine does not have the GPU.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if re.fullmatch(r"mps(:[0-9]+)?", device):
        raise ConfigError(
            f"device '{device}' is not supported: some methods compute in float64, which Apple's GPUs have not; use "
            "--device cpu"
        )
    match = re.fullmatch(r"cpu|cuda(?::([0-9]{1,3}))?", device)
    if match is None:
        raise unknown_name("device", printable(device, 50), DEVICES)
    if device != "cpu" and int(match[1] or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device '{device}' is not there: {_what_torch_sees()}; use --device cpu")
    return torch.device(device)


def _what_torch_sees() -> str:
    """Say how many GPUs there are, and why there are none where torch itself is the reason."""
    count = torch.cuda.device_count()
    if count == 0 and torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch sees {count} CUDA device{'' if count == 1 else 's'}"


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which float32 convolutions on a GPU have all their bits, and always the same.

    cuDNN rounds the factors of such a convolution to TF32, of 10 bits, unless it is told otherwise. Features would then
    differ from those of the CPU in the third digit. Matrix products keep their bits by torch's own default.
    """
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    context: AbstractContextManager[None] = cudnn.flags(
        enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )
    return context
