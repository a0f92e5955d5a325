"""Prompts that are lists of tokens out of an agreed vocabulary: what the methods that search them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfed.blackbox.base import BlackBoxConfig, BlackBoxMethod, ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.search.base import Tokens
from promptfed.blackbox.tokens.vocabulary import Vocabulary, VocabularyConfig
from promptfed.errors import TrainingError
from promptfed.method import MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import Split

TAG = "vocabulary"
"""Name of the vocabulary's tag in a shared state. It is sent down, never up."""


class TokenPromptConfig(BlackBoxConfig, VocabularyConfig):
    """Options of a prompt that is a list of tokens."""

    n_tokens: int = Field(5, ge=1, le=256, description="tokens of the prompt, blanks included")


class TokenPromptMethod(BlackBoxMethod):
    """A method whose prompts are indices into ``vocabulary``, deployed as the text of those tokens."""

    requires: ClassVar[frozenset[str]] = frozenset({"text prompts"})
    Config: ClassVar[type[MethodConfig]] = TokenPromptConfig
    config: TokenPromptConfig

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        self.vocabulary = Vocabulary.agreed(self.config, setup.classes, self.oracle.form)

    def check_agreed(self, shared: PromptState) -> None:
        """Raises TrainingError if the server's indices mean other tokens than ours."""
        if shared[TAG].tolist() != self.vocabulary.tag.tolist():
            raise TrainingError(
                "the server's vocabulary is not the one made here of the options vocabulary and "
                f"candidates={self.config.candidates}: all parties need the same options, classes and file"
            )

    def prompt(self, tokens: Sequence[int]) -> Candidate:
        return Candidate(self.vocabulary.text(tokens))

    def losses(
        self, desk: ClientOracle, prompts: Sequence[Tokens], rows: Tensor, split: Split | None = None
    ) -> np.ndarray:
        """Mean loss ``(prompts,)`` of each; prompts that come more than once are asked and paid for once."""
        distinct = list(dict.fromkeys(prompts))
        found = dict(zip(distinct, desk.losses([self.prompt(p) for p in distinct], rows, split=split), strict=True))
        return np.array([found[p] for p in prompts])


def validation_rows(desk: ClientOracle, most: int) -> tuple[Split, Tensor]:
    """At most ``most`` validation examples of the client, drawn without repetition; of its training examples if it
    has no others. They are what prompts are chosen by that were made on training examples."""
    split = desk.data.val if len(desk.data.val) else desk.data.train
    drawn = desk.stream.choice(len(split), min(most, len(split)), replace=False)
    return split, torch.from_numpy(drawn)


def indices(tensor: Tensor) -> Tokens:
    """A row of indices as the searchers have them."""
    return tuple(int(index) for index in tensor.tolist())
