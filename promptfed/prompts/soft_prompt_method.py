"""What methods share whose clients train a soft prompt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from promptfed.inserts.base import InsertKind
from promptfed.inserts.soft_prompt import TEXT, SoftPrompt
from promptfed.prompts.language_method import LanguageConfig, LanguageMethod
from promptfed.setup import Setup


class SoftPromptConfig(LanguageConfig):
    """Options of methods whose insert begins as a soft prompt."""

    lr: float = Field(0.03, gt=0, description="learning rate")
    n_tokens: int = Field(10, ge=1, le=512, description="vectors of the prompt")
    init: Literal["text", "vocab", "random"] = Field("text", description="what the vectors start from")
    init_text: str = Field("", description="the words of init=text; empty: the task's first hand-written prompt")


class SoftPromptMethod(LanguageMethod):
    """A method whose insert is a soft prompt, ``prompt_embeddings`` ``(n_tokens, width)``."""

    config: SoftPromptConfig

    def make_kind(self) -> InsertKind:
        return soft_prompt(self.config, self.setup)


def soft_prompt(config: SoftPromptConfig, setup: Setup) -> SoftPrompt:
    """Return the soft prompt that ``config`` describes."""
    return SoftPrompt(setup.language_model, config.n_tokens, config.init, prompt_text(config, setup), setup.seed)


def prompt_text(config: SoftPromptConfig, setup: Setup) -> str:
    """Return the words that a soft prompt starts from: the user's, or the task's first hand-written prompt."""
    return config.init_text or next((prompt for prompt in setup.templates if prompt.strip()), TEXT)
