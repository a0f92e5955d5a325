"""How many clients are trained side by side, where the user leaves it to promptfed.

A pass of a text tower reads all of its weights, however few tokens go through it. Side by side, clients share that; the
more tokens a client brings, the less there is to gain. docs/results.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptfed.backbones.base import Backbone
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.config import RunConfig
from promptfed.frozen_model import FrozenModel

TOKENS_AT_ONCE = 600
"""The tokens of a pass beyond which more clients do not make it cheaper."""
MOST_CLIENTS = 16


def clients_at_once(config: RunConfig, model: FrozenModel, classes: Sequence[str]) -> int:
    """Return how many clients of a run are trained side by side.

    It is what ``config`` says. Where that is "auto", clients whose method learns no words before the names are trained
    one by one.
    """
    n_ctx = config.method_options.get("n_ctx")
    if config.client_batch != "auto":
        return config.client_batch
    if not isinstance(model, DualEncoder) or not n_ctx:
        return 1
    return automatic_batch(tokens_of_client(model.backbone, classes, n_ctx))


def automatic_batch(tokens: int) -> int:
    """Return how many clients to train side by side when each brings ``tokens`` to a pass of the text tower."""
    return max(1, min(MOST_CLIENTS, TOKENS_AT_ONCE // max(1, tokens)))


def tokens_of_client(backbone: Backbone, classes: Sequence[str], n_ctx: int) -> int:
    """Return the tokens that a client's texts bring to a pass of the text tower.

    Args:
        backbone: Whose tower reads what all texts begin with once, or not.
        classes: The names of the classes among which a client chooses.
        n_ctx: The number of context tokens before each name.
    """
    tokens = backbone.class_tokens(classes, n_ctx)
    rows, length = tokens.embeddings.shape[:2]
    if not backbone.reads_beginnings_once:
        return rows * length
    return tokens.shared + rows * (length - tokens.shared)
