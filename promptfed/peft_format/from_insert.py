"""What a client predicts with, as an adapter of PEFT: from the insert itself, so that it is exact for every method.

A change that is a sum of low-rank terms (shared and personal factors, FedEx-LoRA's carried residual) is one adapter
whose factors are stacked: ``sum_i s_i B_i A_i = [s_1 B_1 ... s_k B_k] [A_1; ...; A_k]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.language_models.insert import Factors, Insert
from promptfed.peft_format.adapter import PROMPT, ROOT, Adapter
from promptfed.peft_format.config import AdapterConfig

TASK_TYPE = {
    "causal": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "masked": "FEATURE_EXTRACTION",
    "encoder": "FEATURE_EXTRACTION",
}  # fmt: skip
"""Family of a model -> what has PEFT put a prompt before the input and leave the output as it is.

PEFT has no type for masked models; under FEATURE_EXTRACTION it passes the word head's logits on unchanged.
"""
OWN_BUNDLE = "leave out --format peft for promptfed's own bundle, which holds all of it"


class BaseSizes(Protocol):
    """What an adapter must fit: the sizes of a language model."""

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
    def matrices(self) -> Mapping[str, tuple[int, int]]: ...


def adapter_of(insert: Insert, base: BaseSizes, name: str | None = None, *, fan_in_fan_out: bool = False) -> Adapter:
    """Return ``insert`` as an adapter whose ``forward`` in PEFT gives the same logits.

    Args:
        insert: What the frozen model reads with.
        base: The model.
        name: What PEFT loads the model by; None: it has no public name.
        fan_in_fan_out: Whether the changed modules keep their weights as (in, out).

    Raises:
        ConfigError: PEFT has no one adapter for it.
    """
    parts = {
        "a soft prompt": insert.soft, "a prefix": insert.prefix, "low-rank changes": insert.low_rank,
        "factors of activations": insert.ia3,
    }  # fmt: skip
    present = [words for words, part in parts.items() if part is not None and len(part)]
    if not present:
        raise ConfigError(f"nothing is read beside the frozen model, so there is no adapter: {OWN_BUNDLE}")
    if len(present) > 1:
        raise ConfigError(f"an adapter of PEFT is of one kind, and this is {' and '.join(present)}: {OWN_BUNDLE}")
    common: dict[str, Any] = {"task_type": TASK_TYPE[base.family], "base_model_name_or_path": name}
    if insert.soft is not None:
        # PEFT reads the encoder's half of a prompt alone, and an adapter may say that there is no other.
        parts_of_model = {"num_transformer_submodules": 1} if base.family == "encoder-decoder" else {}
        return _prompt("PROMPT_TUNING", insert.soft, {**common, **parts_of_model, "token_dim": base.width})
    if insert.prefix is not None:
        shape = {"num_layers": base.layers, "num_attention_heads": base.kv_heads}
        shape |= {"token_dim": base.kv_heads * base.head_size}
        return _prompt("PREFIX_TUNING", insert.prefix, {**common, **shape})
    if insert.low_rank:
        return _low_rank(insert.low_rank, base.matrices, {**common, "fan_in_fan_out": fan_in_fan_out})
    return _scales(insert.ia3, base.matrices, common)


# ------------------------------------------------------------------------------------------------- internals


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()


def _prompt(kind: str, values: Tensor, about: Mapping[str, Any]) -> Adapter:
    return Adapter(AdapterConfig(peft_type=kind, num_virtual_tokens=len(values), **about), {PROMPT: _plain(values)})


def _low_rank(
    changes: Mapping[str, Sequence[Factors]], matrices: Mapping[str, tuple[int, int]], about: Mapping[str, Any]
) -> Adapter:
    stacked = {path: _stacked(terms) for path, terms in changes.items() if terms}
    ranks = {path: len(factors.a) for path, factors in stacked.items()}
    alphas = {path: _tidy(factors.scale * ranks[path]) for path, factors in stacked.items()}
    (rank, alpha), _ = Counter((ranks[path], alphas[path]) for path in stacked).most_common(1)[0]
    config = AdapterConfig(
        peft_type="LORA",
        r=rank,
        lora_alpha=alpha,
        rank_pattern={path: value for path, value in ranks.items() if value != rank},
        alpha_pattern={path: value for path, value in alphas.items() if value != alpha},
        target_modules=short_names(stacked, matrices),
        **about,
    )
    tensors = {}
    for path, factors in stacked.items():
        tensors[f"{ROOT}{path}.lora_A.weight"] = _plain(factors.a)
        tensors[f"{ROOT}{path}.lora_B.weight"] = _plain(factors.b)
    return Adapter(config, tensors)


def _stacked(terms: Sequence[Factors]) -> Factors:
    """Return a sum of low-rank changes as one, of the sum of their ranks."""
    if len(terms) == 1:
        return terms[0]
    a = torch.cat([term.a for term in terms])
    return Factors(a, torch.cat([term.scale * term.b for term in terms], dim=1), 1.0)


def _tidy(alpha: float) -> float:
    """Return ``alpha`` without the error of its division: alpha / r * r."""
    return float(round(alpha)) if abs(alpha - round(alpha)) < 1e-9 * max(1.0, abs(alpha)) else alpha


def _scales(
    factors: Mapping[str, Tensor], matrices: Mapping[str, tuple[int, int]], about: Mapping[str, Any]
) -> Adapter:
    inputs = {path for path, values in factors.items() if values.shape[0] == 1}
    names = short_names(factors, matrices)
    of_input = tuple(name for name in names if any(_is_named(path, name) for path in inputs))
    if any(_is_named(path, name) for name in of_input for path in factors if path not in inputs):
        names, of_input = tuple(sorted(factors)), tuple(sorted(inputs))
    config = AdapterConfig(peft_type="IA3", target_modules=names, feedforward_modules=of_input, **about)
    return Adapter(config, {f"{ROOT}{path}.ia3_l": _plain(values) for path, values in factors.items()})


def _is_named(path: str, name: str) -> bool:
    return path == name or path.endswith("." + name)


def short_names(paths: Mapping[str, object], matrices: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """Return the last parts of ``paths`` if they name these modules of the model alone, else the whole paths."""
    last = {path.rpartition(".")[2] for path in paths}
    all_of_them = {path for path in matrices if path.rpartition(".")[2] in last}
    return tuple(sorted(last if all_of_them == set(paths) else paths))
