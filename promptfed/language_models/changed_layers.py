"""An insert's changes of a frozen model's layers, for the time of one reading: hooks, and nothing that stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from promptfed.language_models.insert import Factors, Insert


@contextmanager
def changed_layers(modules: Mapping[str, Any], insert: Insert) -> Iterator[None]:
    """Have the layers that ``insert`` names compute with its low-rank changes and its factors.

    ``y + sum_i scale_i (x A_i^T) B_i^T`` for low rank; ``y l^T`` or ``W (x l)`` for IA3. The weights are not touched.

    Args:
        modules: Path -> layer.
        insert: The paths that it names must be among these.
    """
    with ExitStack() as hooks:
        for path, factors in insert.low_rank.items():
            hooks.callback(modules[path].register_forward_hook(_with_factors(factors)).remove)
        for path, scale in insert.ia3.items():
            if scale.shape[-1] == 1:
                hooks.callback(modules[path].register_forward_hook(_scaled_output(scale)).remove)
            else:
                hooks.callback(modules[path].register_forward_pre_hook(_scaled_input(scale)).remove)
        yield


def _with_factors(factors: tuple[Factors, ...]) -> Any:
    def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        states = inputs[0]
        for change in factors:
            a, b = change.a.to(states), change.b.to(states)
            output = output + change.scale * F.linear(F.linear(states, a), b)
        return output

    return hook


def _scaled_output(scale: Tensor) -> Any:
    def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * scale.flatten().to(output)

    return hook


def _scaled_input(scale: Tensor) -> Any:
    def hook(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * scale.flatten().to(inputs[0]), *inputs[1:])

    return hook
