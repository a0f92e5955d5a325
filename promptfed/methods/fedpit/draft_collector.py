"""The server's side of FedPIT: what drafts it takes from clients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.blackbox.text.tensors import text_of
from promptfed.prompt_state import PromptState
from promptfed.seeding import derive
from promptfed.types import Update

if TYPE_CHECKING:
    from promptfed.methods.fedpit import FedPIT

DRAFTS = "drafts"
LONGEST = 400
"""Characters of a text that travels."""


class DraftCollector(AggregatorWrapper):
    """Rule that adds the drafts of a round, without near copies, the clients in turn; ``inner`` merges nothing.

    The order of clients is drawn anew for each class and number of texts that it has. A class takes ``keep`` texts in
    all, so drafts beyond them are sent in vain: with more clients than that, some give no text to a class.
    """

    def __init__(self, inner: Aggregator, method: FedPIT) -> None:
        super().__init__(inner)
        self.method = method

    @torch.no_grad()
    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        method, classes = self.method, len(self.method.setup.classes)
        most = method.config.send
        by_client = {update.client: read_drafts(update.shared[DRAFTS], classes, most) for update in updates}
        by_class = []
        for label, texts in enumerate(method.texts(shared)):
            ranks = {
                client: derive(method.setup.seed, "fedpit turns", label, len(texts), client) for client in by_client
            }
            queues = [by_client[client][label] for client in sorted(ranks, key=ranks.__getitem__)]
            drafts = [queue[turn] for turn in range(most) for queue in queues if turn < len(queue)]
            by_class.append(method.apart(drafts, texts, method.config.keep))
        return method.state(by_class), server


def read_drafts(tensor: Tensor, classes: int, most: int) -> list[list[str]]:
    """Return the texts of each class that a client has sent.

    Raises:
        ValueError: They are no list of drafts, or too many, or one is too long or holds control characters.
    """
    by_class: list[list[str]] = [[] for _ in range(classes)]
    for label, text in json.loads(text_of(tensor)):
        if not isinstance(label, int) or not 0 <= label < classes or not isinstance(text, str) or not text.strip():
            raise ValueError("a draft that is no class and text")
        if not text.isprintable():
            raise ValueError("a draft with a tab, a line break or another control character")
        if len(text) > LONGEST:
            raise ValueError(f"a draft of {len(text)} characters, where {LONGEST} are allowed")
        by_class[label].append(text)
    if (largest := max(map(len, by_class))) > most:
        raise ValueError(f"{largest} drafts of a class, where {most} are allowed")
    return by_class
