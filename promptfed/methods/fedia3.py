"""Federated IA3: clients train factors of activations, and the server averages them."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from promptfed.errors import ConfigError
from promptfed.inserts.base import InsertKind
from promptfed.inserts.ia3 import DEFAULT_TARGETS, IA3
from promptfed.inserts.low_rank import matching_paths
from promptfed.method import METHODS, MethodConfig
from promptfed.prompts.language_method import LanguageConfig, LanguageMethod


class FedIA3Config(LanguageConfig):
    """Options of the factors."""

    scaled_outputs: tuple[str, ...] = Field(
        (),
        description="ends of the paths of layers whose output is scaled, such as k_proj,v_proj; both empty: PEFT's "
        "choice for the architecture",
    )
    scaled_inputs: tuple[str, ...] = Field(
        (), description="ends of the paths of layers whose input is scaled, such as down_proj"
    )

    @field_validator("scaled_outputs", "scaled_inputs", mode="before")
    @classmethod
    def _are_listed(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


@METHODS.register("fedia3")
class FedIA3(LanguageMethod):
    """Clients train IA3's factors; the server takes the mean, weighted by sample count.

    Shared: ``base_model.model.PATH.ia3_l``, ``(out, 1)`` for keys and values, ``(1, in)`` for the second layer of
    each feed-forward block, all of which start at 1, and the head if it is linear. Personal: nothing. No tokens are
    added, so texts lose no room.

    Different from the paper: it is averaged, which the paper does not consider, and its unlikelihood and length losses
    are left out. Gemma's and Qwen's first factors are on queries in the place of keys, as in PEFT.
    """

    name: ClassVar[str] = "Federated IA3"
    paper: ClassVar[str] = "Liu et al. 2022, arXiv 2205.05638, averaged"
    trains: ClassVar[str] = "factors of keys, values and feed-forward layers"
    Config: ClassVar[type[MethodConfig]] = FedIA3Config
    config: FedIA3Config

    def make_kind(self) -> InsertKind:
        outputs, inputs = self.config.scaled_outputs, self.config.scaled_inputs
        matrices = self.model.matrices
        if not outputs and not inputs:
            kind = self.model.model.config.get_text_config().model_type
            if kind not in DEFAULT_TARGETS:
                raise ConfigError(
                    f"fedia3 has no default layers for a model of type '{kind}': name them by the ends of their paths, "
                    "such as --set method.scaled_outputs=k_proj,v_proj --set method.scaled_inputs=down_proj"
                )
            outputs, inputs = DEFAULT_TARGETS[kind]
        after = matching_paths(matrices, outputs, "scaled_outputs")
        before = matching_paths(matrices, inputs, "scaled_inputs")
        if both := sorted({*after} & {*before}):
            raise ConfigError(
                f"options 'scaled_outputs' and 'scaled_inputs' both name '{both[0]}', and a layer is scaled once: "
                "leave it out of one of them"
            )
        return IA3(matrices, after, before)
