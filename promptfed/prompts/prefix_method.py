"""What methods share whose clients train a prefix of keys and values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.inserts.prefix import PREFIX, Prefix
from promptfed.inserts.soft_prompt import repeated
from promptfed.language_models.model import LanguageModel
from promptfed.local_training import LocalObjective
from promptfed.prompt_state import PromptState
from promptfed.prompts.language_method import LanguageMethod
from promptfed.prompts.soft_prompt_method import SoftPromptConfig, prompt_text
from promptfed.seeding import torch_stream
from promptfed.types import Split

PrefixKind = TypeVar("PrefixKind", bound=Prefix)
TOP = "top:"
"""Before the number of layers, counted from the highest."""


class PrefixConfig(SoftPromptConfig):
    """Options of a prefix."""

    n_tokens: int = Field(10, ge=1, le=512, description="tokens of the prefix")
    init: Literal["text", "vocab", "random"] = Field(
        "text", description="whose keys and values it starts from: a text's, drawn tokens', or small random numbers"
    )
    freeze_first: bool = Field(True, description="whether the first token, the start marker, stays as it starts")


class PrefixMethod(LanguageMethod):
    """A method whose insert is a prefix, ``prompt_embeddings`` ``(n_tokens, layers * 2 * kv_width)``."""

    config: PrefixConfig
    prefix_names: ClassVar[tuple[str, ...]] = (PREFIX,)
    """Tensors with a row for each token of the prefix."""

    def make_prefix(self, kind: type[PrefixKind], lowest: int = 0) -> PrefixKind:
        """Return the prefix, of one ``kind``; keys and values of layers below ``lowest`` are not trained.

        Raises:
            BackboneError: The model takes no prefix.
            ConfigError: Nothing would be trained.
        """
        config, model = self.config, self.model
        if config.freeze_first and config.n_tokens == 1:
            raise ConfigError(
                "option 'n_tokens' is 1 and the first token is frozen, so nothing is trained: give 2 or more, or "
                "--set method.freeze_first=false"
            )
        text = model.keys_and_values(self._ids()).cpu()  # asked for in any case: not every model takes a prefix
        return kind(
            config.n_tokens,
            model.layers,
            model.kv_heads * model.head_size,
            self.setup.seed,
            text=None if config.init == "random" else text,
            first_is_frozen=config.freeze_first,
            lowest=lowest,
        )

    def _ids(self) -> list[int]:
        """Return the tokens whose keys and values the prefix starts from: the model's start marker, then words."""
        n, tokens = self.config.n_tokens, self.model.tokens
        if self.config.init == "text":
            text = prompt_text(self.config, self.setup)
            words = repeated(tokens.start(text), n, text)
        else:
            size = len(self.model.model.get_input_embeddings().weight)
            words = torch.randint(size, (n,), generator=torch_stream(self.setup.seed, "prefix words")).tolist()
        return [*tokens.first, *words][:n]

    def objective(self, values: PromptState, split: Split, names: Collection[str] | None = None) -> LocalObjective:
        objective = super().objective(values, split, names)
        if not self.config.freeze_first:
            return objective
        first = {name: objective.start[name][:1] for name in self.prefix_names if name in objective.start}

        def project(parameters: Mapping[str, Tensor]) -> None:
            for name, row in first.items():  # it has no gradient, and weight decay must not move it either
                parameters[name][:1] = row.to(parameters[name])

        return replace(objective, project=project)


def is_top(choice: object) -> bool:
    """Whether ``choice`` is top:M with M of 1 or more."""
    number = choice.removeprefix(TOP) if isinstance(choice, str) and choice.startswith(TOP) else ""
    return number.isascii() and number.isdigit() and int(number) > 0


def lowest_of(choice: str, model: LanguageModel) -> int:
    """Return the lowest of the layers top:M of ``model``. Raises ConfigError if it has fewer than M."""
    count = int(choice.removeprefix(TOP))
    if count > model.layers:
        raise ConfigError(
            f"option 'layers' is '{choice}', and '{model.name}' has {model.layers} layers: give {TOP}{model.layers} "
            "or fewer, or all"
        )
    return model.layers - count
