"""A soft prompt: input vectors before everything (prompt tuning: Lester et al. 2021, arXiv 2104.08691)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.inserts.base import InsertKind, check_shape
from promptfed.language_models.insert import Insert
from promptfed.language_models.model import LanguageModel
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream

EMBEDDINGS = "prompt_embeddings"
"""PEFT's name of the vectors."""
TEXT = "Read the text and say which of the classes fits it best."
"""What a prompt starts from if neither the user nor the task names a text."""
Init = Literal["text", "vocab", "random"]


class SoftPrompt(InsertKind):
    """``prompt_embeddings`` ``(n, width)`` in the space of a model's scaled token vectors.

    Args:
        model: The frozen model.
        n_tokens: The number of vectors n.
        init: "text": the token vectors of ``text``, repeated or cut to n; "vocab": those of n tokens drawn from the
            vocabulary; "random": normal, with the spread of token vectors.
        text: What "text" starts from.
        seed: Of the draws.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"

    def __init__(self, model: LanguageModel, n_tokens: int, init: Init, text: str, seed: int) -> None:
        self.model, self.n_tokens, self.init, self.text, self.seed = model, n_tokens, init, text, seed

    def start(self, *purpose: str | int) -> PromptState:
        stream = torch_stream(self.seed, "soft prompt", *purpose)
        return PromptState({EMBEDDINGS: self._vectors(stream).cpu()})

    @torch.no_grad()
    def _vectors(self, stream: torch.Generator) -> Tensor:
        model, n = self.model, self.n_tokens
        if self.init == "text":
            return model.embed(repeated(model.tokens.start(self.text), n, self.text))
        size = len(model.model.get_input_embeddings().weight)
        vectors = model.embed(torch.randint(size, (n,), generator=stream).tolist())
        if self.init == "vocab":
            return vectors
        deviation = model.embed(range(0, size, -(-size // 4096))).std().item()
        return deviation * torch.randn(n, model.width, generator=stream)

    def insert(self, values: Mapping[str, Tensor]) -> Insert:
        return Insert(soft=values[EMBEDDINGS])

    def start_from(self, insert: Insert) -> PromptState:
        return PromptState({EMBEDDINGS: soft_prompt_of(insert, self.n_tokens, self.model.width)})

    def peft_config(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": len(values[EMBEDDINGS]),
            "prompt_tuning_init": "RANDOM",
        }

    def peft_tensors(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {EMBEDDINGS: values[EMBEDDINGS]}


def soft_prompt_of(insert: Insert, n: int, width: int) -> Tensor:
    """Return the vectors ``(n, width)`` of an adapter. Raises ConfigError, which goes on after "the adapter"."""
    if insert.soft is None:
        raise ConfigError("holds no soft prompt, which is what this method trains")
    fix = f"--set method.n_tokens={len(insert.soft)}" if insert.soft.shape[1] == width else "it is for another model"
    check_shape("a prompt", insert.soft.shape, (n, width), fix)
    return insert.soft


def repeated(ids: list[int], n: int, text: str) -> list[int]:
    """Return ``ids`` over and over, cut to ``n``. Raises ConfigError if there are none."""
    if not ids:
        raise ConfigError(f"option 'init_text' is {text!r}, which holds no token: give words to start from")
    return (ids * (-(-n // len(ids))))[:n]
