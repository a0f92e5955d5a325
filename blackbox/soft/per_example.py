"""Methods whose prompt is made anew for every example that is put to the black box."""

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
    """Say what prompt an example gets (``candidate_on``), and what becomes of its scores (``adjusted``)."""

    @abstractmethod
    def candidate_on(self, shared: PromptState, personal: PromptState, items: Sequence[Item]) -> Candidate:
        """The prompts of ``items``, in their order; an empty ``personal`` is somebody who never took part."""

    def adjusted(self, scores: Tensor, personal: PromptState) -> Tensor:
        """Scores ``(n, base classes)`` after what the client does to them once they came back; by default nothing."""
        return scores

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        agreed = list(self.setup.classes)
        own = set(classes) <= set(agreed)
        found = [torch.zeros(0, len(agreed if own else classes))]
        for start in range(0, len(split), TOGETHER):
            part = Split(split.items[start : start + TOGETHER], split.labels[start : start + TOGETHER])
            prompts = [self.candidate_on(shared, personal, part.items)]
            scores = self.scored(prompts, agreed if own else classes, part)[0]
            found.append(self.adjusted(scores, personal) if own else scores)
        scores = torch.cat(found)
        return scores[:, [agreed.index(name) for name in classes]] if own else scores
