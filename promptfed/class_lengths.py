"""Class names that are too long for the text tower, found before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from promptfed.backbones.base import Backbone
from promptfed.errors import BackboneError
from promptfed.federation import Federation
from promptfed.method import FeatureMethod
from promptfed.types import ClientPrompt

SPARE = 8
"""Tokens that a method may put around a name beside its context."""


def check_class_lengths(
    backbone: Backbone,
    names: Iterable[str],
    templates: Iterable[str],
    n_ctx: int = 0,
    federation: Callable[[], Federation] | None = None,
) -> None:
    """Tokenise ``names`` in every template, and as ``federation``'s method puts them, with some ``n_ctx`` tokens.

    Raises BackboneError naming the first that is too long. Only names that come near the limit are put through the
    method, so usually no text is encoded.
    """
    forms, near = [*templates, "{}"], []
    for name in dict.fromkeys(names):
        for form in forms:
            # A byte is one token at most.
            if len(form.replace("{}", name).encode("utf-8", "replace")) + 2 > backbone.context_length:
                backbone.check_text(form.replace("{}", name))
        try:
            backbone.class_tokens([name], n_ctx + SPARE)
        except BackboneError:
            near.append(name)
    if federation is None or not near:
        return
    fed = federation()
    method = fed.method
    if not isinstance(method, FeatureMethod):
        return
    state, client = fed.start(), fed.clients[0]
    prompt = ClientPrompt(fed.broadcast(state, client), method.init_personal(client))
    for name in near:
        method.client_features(prompt, [name])
