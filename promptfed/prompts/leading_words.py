"""A context that takes the place of a sentence's first words; the other words stay before the class name."""

from __future__ import annotations

from torch import Tensor

from promptfed.backbones.base import Backbone
from promptfed.errors import ConfigError


def leading_words(backbone: Backbone, sentence: str, n_ctx: int) -> Tensor | None:
    """Return the embeddings ``(n_ctx, text_dim)`` of the first tokens of ``sentence``, on the CPU; None: it is empty.

    Raises:
        ConfigError: The sentence has fewer tokens.
    """
    words = backbone.embed_words(sentence)[:n_ctx] if sentence else None
    if words is not None and len(words) < n_ctx:
        raise ConfigError(
            f"option 'init' is '{sentence}', of {len(words)} tokens, but n_ctx is {n_ctx}: give at least "
            "that many words, a smaller n_ctx, or an empty init for a random start"
        )
    return None if words is None else words.cpu()


def remaining_words(backbone: Backbone, sentence: str, n_ctx: int) -> str:
    """Return the words of ``sentence`` behind its first ``n_ctx`` tokens. A word that is cut in two is replaced."""
    words = sentence.split()
    for count in range(len(words) + 1):
        if len(backbone.embed_words(" ".join(words[:count]))) >= n_ctx:
            return " ".join(words[count:])
    return ""
