"""Federated prefix tuning: clients train keys and values before those of the text, and the server averages them."""

from __future__ import annotations

from typing import ClassVar

from promptfed.inserts.base import InsertKind
from promptfed.inserts.prefix import Prefix
from promptfed.method import METHODS, MethodConfig
from promptfed.prompts.prefix_method import PrefixConfig, PrefixMethod


class FedPrefixConfig(PrefixConfig):
    """Options of the prefix."""


@METHODS.register("fedprefix")
class FedPrefix(PrefixMethod):
    """Clients train a prefix of every layer; the server takes the mean, weighted by sample count.

    Shared: ``prompt_embeddings`` ``(n_tokens, layers * 2 * kv_width)``, and the head if it is linear. Personal:
    nothing. With a linear head it is P-tuning v2, federated; FedPrompt's paper compares with it.

    Different from prefix tuning's paper: the prefix is trained itself, without a network that makes it, and starts from
    the keys and values that the model keeps of a text. Its first token, the start marker, stays frozen.
    """

    name: ClassVar[str] = "Federated prefix tuning"
    paper: ClassVar[str] = "Li and Liang 2021, arXiv 2101.00190, averaged as in Zhao et al. 2023, arXiv 2208.12268"
    trains: ClassVar[str] = "prefix (n_tokens, layers * 2 * kv_width)"
    Config: ClassVar[type[MethodConfig]] = FedPrefixConfig

    def make_kind(self) -> InsertKind:
        return self.make_prefix(Prefix)
