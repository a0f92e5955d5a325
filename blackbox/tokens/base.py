"""Prompts that are lists of tokens out of an agreed vocabulary: the common part of the methods that search them."""

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
        """Check that the server's indices mean our tokens.

        Raises:
            TrainingError: They mean others.
        """
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
        """Return the mean loss ``(prompts,)`` of each; repeated prompts are queried and paid for once."""
        distinct = list(dict.fromkeys(prompts))
        by_prompt = dict(zip(distinct, desk.losses([self.prompt(p) for p in distinct], rows, split=split), strict=True))
        return np.array([by_prompt[p] for p in prompts])


def validation_rows(desk: ClientOracle, limit: int) -> tuple[Split, Tensor]:
    """Draw at most ``limit`` validation examples of the client without repetition, to choose prompts by.

    If it has none, they are training examples.
    """
    split = desk.data.val if len(desk.data.val) else desk.data.train
    sample = desk.stream.choice(len(split), min(limit, len(split)), replace=False)
    return split, torch.from_numpy(sample)


def indices(tensor: Tensor) -> Tokens:
    """Convert a row of indices to the searchers' form."""
    return tuple(int(index) for index in tensor.tolist())
