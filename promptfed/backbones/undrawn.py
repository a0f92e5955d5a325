"""Models that are built to be loaded: their random first weights are not drawn."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DRAWS = frozenset({nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_, Tensor.normal_, Tensor.uniform_})
"""What all of torch's first weights come from. Some functions of ``nn.init`` are not told of by torch, but what they
call is."""


class Undrawn(TorchFunctionMode):
    """Leave the parameters of a model that is built within as the memory is.

    Only for a model all of whose parameters are loaded afterwards, which takes less time than to draw them.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func in DRAWS:
            return args[0] if args else options["tensor"]
        return func(*args, **options)
