"""Methods whose prompt is made anew for every example."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from promptfed.blackbox.base import BlackBoxMethod
from promptfed.blackbox.oracles.query import Candidate
from promptfed.examples.base import Item
from promptfed.prompt_state import PromptState
from promptfed.types import Split

TOGETHER = 64
"""Examples whose prompts are held in memory at once: one for an image is as large as the image."""


class PerExampleMethod(BlackBoxMethod):
    """Base of methods with a prompt for each example.

    A subclass says which prompt an example gets (``candidate_on``), and what becomes of its scores (``adjusted``).
    """

    @abstractmethod
    def candidate_on(self, shared: PromptState, personal: PromptState, items: Sequence[Item]) -> Candidate:
        """Return the prompts of ``items``, in their order; ``personal`` may be empty."""

    def adjusted(self, scores: Tensor, personal: PromptState) -> Tensor:
        """Adjust scores ``(n, base classes)`` at the client; by default nothing changes."""
        return scores

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        agreed = list(self.setup.classes)
        is_subset = set(classes) <= set(agreed)
        parts = [torch.zeros(0, len(agreed if is_subset else classes))]
        for start in range(0, len(split), TOGETHER):
            part = Split(split.items[start : start + TOGETHER], split.labels[start : start + TOGETHER])
            prompts = [self.candidate_on(shared, personal, part.items)]
            scores = self.scored(prompts, agreed if is_subset else classes, part)[0]
            parts.append(self.adjusted(scores, personal) if is_subset else scores)
        scores = torch.cat(parts)
        return scores[:, [agreed.index(name) for name in classes]] if is_subset else scores
