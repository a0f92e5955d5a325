"""IA3: factors on keys, values and what the feed-forward layers take (Liu et al. 2022, arXiv 2205.05638)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.inserts.base import MODULE, InsertKind, check_modules, check_shape
from promptfed.language_models.insert import Insert
from promptfed.printable import printable
from promptfed.prompt_state import PromptState

DEFAULT_TARGETS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bert": (("key", "value"), ("output.dense",)),
    "gemma": (("q_proj", "v_proj"), ("down_proj",)),
    "gemma2": (("q_proj", "v_proj"), ("down_proj",)),
    "gemma3_text": (("q_proj", "v_proj"), ("down_proj",)),
    "gpt2": (("c_attn",), ("mlp.c_proj",)),
    "llama": (("k_proj", "v_proj"), ("down_proj",)),
    "mistral": (("k_proj", "v_proj"), ("down_proj",)),
    "opt": (("q_proj", "k_proj"), ("fc2",)),
    "qwen2": (("q_proj", "v_proj"), ("down_proj",)),
    "qwen3": (("q_proj", "v_proj"), ("down_proj",)),
    "roberta": (("key", "value"), ("output.dense",)),
    "t5": (("k", "v"), ("wo",)),
}
"""Type of a model -> ends of the paths whose output is scaled, and of those whose input is: PEFT's defaults."""


def ia3_name(path: str) -> str:
    """Return the name of a matrix's factors: PEFT's file key."""
    return f"{MODULE}{path}.ia3_l"


class IA3(InsertKind):
    """One factor for each output of some matrices, and for each input of others; all start at 1.

    Args:
        matrices: Path -> ``(out, in)`` of all matrices of the model.
        scaled_outputs: Paths of matrices whose output is scaled; in the paper, of keys and values.
        scaled_inputs: Paths of matrices whose input is scaled; in the paper, the second of a feed-forward layer.
    """

    peft_type: ClassVar[str] = "IA3"

    def __init__(
        self, matrices: Mapping[str, tuple[int, int]], scaled_outputs: Sequence[str], scaled_inputs: Sequence[str] = ()
    ) -> None:
        self.scaled_outputs, self.scaled_inputs = tuple(scaled_outputs), tuple(scaled_inputs)
        self.shapes = {
            **{path: (matrices[path][0], 1) for path in scaled_outputs},
            **{path: (1, matrices[path][1]) for path in scaled_inputs},
        }

    def start(self, *purpose: str | int) -> PromptState:
        return PromptState({ia3_name(path): torch.ones(shape) for path, shape in self.shapes.items()})

    def insert(self, values: Mapping[str, Tensor]) -> Insert:
        return Insert(ia3={path: values[ia3_name(path)] for path in self.shapes})

    def start_from(self, insert: Insert) -> PromptState:
        if not insert.ia3:
            raise ConfigError("holds no IA3 factors, which is what this method trains")
        check_modules(insert.ia3, self.shapes)
        for path, factors in insert.ia3.items():
            check_shape(
                f"factors for '{printable(path, 120)}'", factors.shape, self.shapes[path], "it is for another model"
            )
        return PromptState({ia3_name(path): factors for path, factors in insert.ia3.items()})

    def peft_config(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "peft_type": self.peft_type,
            "target_modules": sorted(self.shapes),
            "feedforward_modules": sorted(self.scaled_inputs),
        }
