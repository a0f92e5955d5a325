"""A device that is not there: its tensors say that they are on ``lazy``, compute on the CPU, and do not meet others.

On a card an operation between one of its tensors and one of the CPU is an error. Nothing on a CPU shows such a fault.
Here the same operation is the same error, without a card: ``DeviceTensor`` holds a CPU tensor and wears another device,
and every operation that torch dispatches is looked at. ``lazy`` is the one device besides the CPU whose backward pass
torch runs in the thread that asks for it, and nothing else of torch uses it here.

What it does not show: kernels that a card lacks, rounding, streams, memory, speed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy")
aten = torch.ops.aten
BRIDGES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
"""Operations that carry values from one device to the other."""


class DevicesMeet(RuntimeError):  # noqa: N818 (what a card reports as RuntimeError)
    """A tensor of the device met one of the CPU that has dimensions."""


class DeviceTensor(Tensor):
    """A tensor on the pretended device; ``values`` are on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> DeviceTensor:
        place = {"strides": values.stride(), "storage_offset": values.storage_offset(), "layout": values.layout}
        tensor = Tensor._make_wrapper_subclass(cls, values.size(), dtype=values.dtype, device=DEVICE, **place)
        tensor.values = values
        return tensor

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.values})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.tolist:  # which torch has for its own class alone
            return args[0].values.tolist()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


def dispatched(func: Any, args: Any, kwargs: Any) -> Any:
    """Return what ``func`` gives, on the device of its tensors, or on the one it is asked for.

    Raises:
        DevicesMeet: Its tensors are on two devices.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    on_cpu = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor) and tensor.dim()]
    if on_device and on_cpu and func not in BRIDGES:
        shapes = ([tuple(tensor.shape) for tensor in group] for group in (on_device, on_cpu))
        raise DevicesMeet("{}: {} on the device, {} on the CPU".format(func, *shapes))
    wanted = kwargs.get("device")
    stays = bool(on_device) if wanted is None else torch.device(wanted) == DEVICE
    if func is aten.copy_.default:
        stays = isinstance(args[0], DeviceTensor)
    if func is aten._local_scalar_dense.default:  # item()
        stays = False
    if func is aten._fused_sdp_choice.default:  # of attention: that made of plain operations
        return 0
    plain_args, plain_kwargs = tree_map(_plain, args), tree_map(_plain, kwargs)
    if wanted is not None:
        plain_kwargs["device"] = torch.device("cpu")
    result = func(*plain_args, **plain_kwargs)
    if not stays:
        return result
    if func._schema.is_mutable:  # in place: the very tensor comes back
        return args[0]
    return tree_map(lambda leaf: DeviceTensor(leaf) if isinstance(leaf, Tensor) else leaf, result)


def _plain(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, DeviceTensor) else leaf


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """``torch.tensor([1, 2], device=...)`` makes its tensor beside the dispatcher: it is made here and then moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and options.get("device") is not None:
            device = options.pop("device")
            return func(*args, **options).to(device)
        return func(*args, **options)


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Within, the pretended device is what every model is loaded on that asks for ``cuda``."""
    import promptfed.backbones.device as device_module

    pick = device_module.pick_device
    users = [module for name, module in sys.modules.items() if name.startswith("promptfed.")]

    def pick_device(device: str) -> torch.device:
        return DEVICE if device == "cuda" else pick(device)

    with pytest.MonkeyPatch.context() as patch, _Dispatch(), _Literals():
        for module in users:
            if getattr(module, "pick_device", None) is pick:
                patch.setattr(module, "pick_device", pick_device)
        yield DEVICE
