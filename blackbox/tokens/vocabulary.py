"""The tokens of discrete prompts, agreed before round 1 without a look at any client's texts.

BDPL takes the n-grams that have the most to do with the labels of the training texts (by PMI). In a federation such a
list would carry the clients' own phrases to all. Here it is a public one: the words of the task's classes, then
``words.txt``, which was written for this project, or a file that all parties have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from promptfed.blackbox.search.base import Tokens
from promptfed.errors import ConfigError
from promptfed.printable import printable
from promptfed.prompt_template import PromptTemplate
from promptfed.readers.option_file import option_lines
from promptfed.readers.text import filled_lines

BUNDLED = Path(__file__).parent / "words.txt"
LONGEST = 64
"""Characters that a candidate token may have: a word or a few, not a text."""
BLANK = ""
"""Token 0 is empty, so that prompts of up to n_tokens tokens can be found, and "no prompt" is one of them."""


class VocabularyConfig(BaseModel):
    """Options of the vocabulary."""

    vocabulary: str | tuple[str, ...] = Field(
        "bundled",
        description="candidate tokens: 'bundled', 'file:PATH' with one a line (read once, when a run is set up), or a "
        "list; the same at all parties",
    )
    candidates: int = Field(
        50, ge=2, description="how many of them: the blank, the words of the classes, then the list from its start"
    )


@dataclass(frozen=True)
class Vocabulary:
    """Candidate ``tokens`` by index; 0 is the blank."""

    tokens: tuple[str, ...]

    @classmethod
    def agreed(cls, options: VocabularyConfig, classes: Sequence[str], form: PromptTemplate) -> Vocabulary:
        """Return the vocabulary that all parties derive from the configuration alone.

        It is the blank, each class's label word in the classes' order, then the list.

        Raises:
            ConfigError: The list is too short, missing, or no list of tokens.
        """
        words = [form.word(name).lower() for name in classes]
        tokens = tuple(dict.fromkeys([BLANK, *words, *_listed(options.vocabulary)]))
        if options.candidates > len(tokens):
            raise ConfigError(
                f"candidates={options.candidates}, but there are {len(tokens)}: the blank, the classes' words and "
                f"vocabulary {_named(options.vocabulary)}; use --set method.candidates={len(tokens)} or fewer, or a "
                "longer list: --set method.vocabulary=file:PATH"
            )
        return cls(tokens[: options.candidates])

    def __len__(self) -> int:
        return len(self.tokens)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the prompt that these indices stand for."""
        return " ".join(word for word in (self.tokens[index] for index in tokens) if word)

    @cached_property
    def tag(self) -> Tensor:
        """Return ``(8,)`` uint8, the first bytes of the list's SHA-256: equal tags mean equal tokens."""
        return torch.tensor(list(hashlib.sha256("\n".join(self.tokens).encode()).digest()[:8]), dtype=torch.uint8)

    def holds(self, tokens: Sequence[int]) -> bool:
        """Return whether these are indices of tokens; call it on values from outside."""
        return all(0 <= index < len(self.tokens) for index in tokens)


def _named(vocabulary: str | Sequence[str]) -> str:
    return f"'{vocabulary}'" if isinstance(vocabulary, str) else f"of {len(vocabulary)} tokens"


def random_tokens(vocabulary: Vocabulary, length: int, stream: torch.Generator) -> Tokens:
    """Draw ``length`` tokens but no blanks, independently."""
    return tuple(torch.randint(1, len(vocabulary), (length,), generator=stream).tolist())


def read_vocabulary(options: dict[str, Any]) -> dict[str, Any]:
    """Return method ``options`` in which a vocabulary's file is replaced by its tokens, as many as the method may use.

    From then on no file is named: runs and bundles carry the tokens.

    Raises:
        ConfigError: The file cannot be read, or holds something else than tokens.
    """
    file = options.get("vocabulary")
    if not isinstance(file, str) or file == "bundled":
        return options
    kind, _, path = file.partition(":")
    if kind != "file" or not path:
        raise ConfigError(
            f"vocabulary '{printable(file, 60)}' must be 'bundled' or 'file:PATH', a text file, one token a line"
        )
    tokens = tuple(dict.fromkeys(" ".join(line.split()) for line in option_lines("vocabulary", file)))
    _check_tokens(tokens[: options["candidates"]])
    return {**options, "vocabulary": list(tokens[: options["candidates"]])}


def _listed(vocabulary: str | Sequence[str]) -> Sequence[str]:
    if vocabulary == "bundled":
        return filled_lines(BUNDLED)
    if isinstance(vocabulary, str):
        raise ConfigError(
            f"vocabulary '{printable(vocabulary, 60)}' is no list of tokens: a file is read when a run is set up "
            "(promptfed train --set method.vocabulary=file:PATH), and never because a run or a bundle names it"
        )
    _check_tokens(vocabulary)
    return vocabulary


def _check_tokens(tokens: Sequence[str]) -> None:
    for token in tokens:
        if len(token) > LONGEST or not token.isprintable():
            raise ConfigError(
                f"the vocabulary holds '{printable(token, 40)}', which is no token: one a line, of {LONGEST} printable "
                "characters at most"
            )
