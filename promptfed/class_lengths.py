"""Class names that are too long for the text tower, found before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from promptfed.backbones.base import Backbone
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.errors import BackboneError
from promptfed.federation import Federation
from promptfed.method import FeatureMethod
from promptfed.setup import Setup
from promptfed.types import ClientPrompt

SPARE = 8
"""Tokens that a method may put around a name beside its context."""


def check_names(
    setup: Setup, names: Sequence[str], options: Mapping[str, Any], federation: Callable[[], Federation]
) -> None:
    """Check that the model of ``setup``, if it is or has a dual encoder, reads ``names`` with a method's ``options``.

    Raises:
        BackboneError: A name is too long.
    """
    if isinstance(setup.model, DualEncoder):
        n_ctx = max(options.get("n_ctx") or 0, 3 * len(str(options.get("init") or "").split()))
        check_class_lengths(setup.model.backbone, names, setup.templates, n_ctx, federation)
    elif setup.model.kind == "oracle" and isinstance(
        backbone := getattr(setup.oracle.backend, "backbone", None), Backbone
    ):
        check_class_lengths(backbone, names, [f"{prompt} {{}}." for prompt in setup.templates])


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
