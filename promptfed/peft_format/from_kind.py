"""What a client predicts with, as an adapter of PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from promptfed.errors import ConfigError, FormatError
from promptfed.inserts.base import MODULE, InsertKind
from promptfed.peft_format.adapter import Adapter
from promptfed.peft_format.config import SOFT_TYPES, parse_config

TASK_TYPE = {
    "causal": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "masked": "FEATURE_EXTRACTION",
    "encoder": "FEATURE_EXTRACTION",
}  # fmt: skip
"""Family of a model -> what has PEFT put a prompt before the input and leave the output as it is.

PEFT has no type for masked models; under FEATURE_EXTRACTION it passes the word head's logits on unchanged. Without a
type it ignores a prompt, and says nothing.
"""
OWN_BUNDLE = "leave out --format peft: promptfed's own bundle holds all of it"
HEAD = "head."
"""What the names of a head's tensors begin with."""


class BaseSizes(Protocol):
    """What PEFT must be told of a language model."""

    @property
    def family(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def model(self) -> Any: ...


def adapter_of(kind: InsertKind, values: Mapping[str, Tensor], base: BaseSizes, name: str | None = None) -> Adapter:
    """Return the insert that ``values`` make as an adapter whose ``forward`` in PEFT gives the same logits.

    Args:
        kind: The kind of insert.
        values: All that a client predicts with; tensors of a head are left out.
        base: The model.
        name: What transformers loads the model by; None: it has no public name.

    Raises:
        ConfigError: PEFT has no adapter for it.
    """
    state = {key: tensor for key, tensor in values.items() if not key.startswith(HEAD)}
    config = {**kind.peft_config(state), "task_type": TASK_TYPE[base.family], "base_model_name_or_path": name}
    if config.get("peft_type") in SOFT_TYPES:
        config |= {"token_dim": base.width}
        if base.family == "encoder-decoder":  # PEFT reads the encoder's half alone, and takes it that there is no other
            config |= {"num_transformer_submodules": 1}
    elif config.get("peft_type") == "PREFIX_TUNING":
        config |= {"num_layers": base.layers, "num_attention_heads": base.kv_heads}
        config |= {"token_dim": base.kv_heads * base.head_size}
    tensors = {key: tensor.detach().to("cpu", torch.float32) for key, tensor in kind.peft_tensors(state).items()}
    if config.get("peft_type") == "LORA":
        config |= {"fan_in_fan_out": _keeps_weights_as_in_out(base.model, tensors)}
    try:
        return Adapter(parse_config(config), {key: tensor.contiguous() for key, tensor in tensors.items()})
    except FormatError as error:
        raise ConfigError(f"PEFT cannot express this adapter ({error}): {OWN_BUNDLE}") from error


def head_of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a trained head among ``values``, which PEFT knows nothing of."""
    return {key: tensor.detach().to("cpu", torch.float32) for key, tensor in values.items() if key.startswith(HEAD)}


def _keeps_weights_as_in_out(model: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a module that is changed is GPT-2's Conv1D, whose weight is (in, out)."""
    paths = {name.partition(".lora_")[0].removeprefix(MODULE) for name in tensors}
    return any(type(module).__name__ == "Conv1D" for path, module in model.named_modules() if path in paths)
