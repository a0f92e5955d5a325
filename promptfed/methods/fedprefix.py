"""Federated prefix tuning: clients train keys and values before those of the text, and the server averages them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from promptfed.inserts.base import InsertKind
from promptfed.inserts.prefix import Prefix
from promptfed.method import METHODS, MethodConfig
from promptfed.prompts.prefix_method import PrefixConfig, PrefixMethod, is_top, lowest_of


class FedPrefixConfig(PrefixConfig):
    """Options of the prefix."""

    layers: str = Field(
        "all",
        description="layers whose prefix is trained and sent: all, or top:M, the M highest; the others keep what they "
        "start from, and read each text once",
    )

    @field_validator("layers")
    @classmethod
    def _are_known(cls, layers: str) -> str:
        if layers != "all" and not is_top(layers):
            raise ValueError("give all, or top: and a number of 1 or more, such as top:4")
        return layers


@METHODS.register("fedprefix")
class FedPrefix(PrefixMethod):
    """Clients train a prefix of every layer; the server takes the mean, weighted by sample count.

    Shared: ``prompt_embeddings`` ``(n_tokens, layers * 2 * kv_width)``, and the head if it is linear. Personal:
    nothing. With a linear head it is P-tuning v2, federated; FedPrompt's paper compares with it. With ``layers=top:M``
    the columns of the M highest layers are all that is trained and sent.

    Different from prefix tuning's paper: the prefix is trained itself, without a network that makes it, and starts from
    the keys and values that the model keeps of a text. Its first token, the start marker, stays frozen.
    """

    name: ClassVar[str] = "Federated prefix tuning"
    paper: ClassVar[str] = "Li and Liang 2021, arXiv 2101.00190, averaged as in Zhao et al. 2023, arXiv 2208.12268"
    trains: ClassVar[str] = "prefix (n_tokens, layers * 2 * kv_width)"
    Config: ClassVar[type[MethodConfig]] = FedPrefixConfig
    config: FedPrefixConfig

    def make_kind(self) -> InsertKind:
        layers = self.config.layers
        return self.make_prefix(Prefix, 0 if layers == "all" else lowest_of(layers, self.model))
