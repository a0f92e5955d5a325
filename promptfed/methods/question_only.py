"""Two baselines of questions about images that do not look at the image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.asked_texts import NO_CANDIDATE
from promptfed.errors import ConfigError
from promptfed.examples.visual_questions import questions_of
from promptfed.method import METHODS, Method
from promptfed.prompt_state import PromptState
from promptfed.scores import mean_loss, predicted
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split, Update

SHARPNESS = 100.0
"""Of a question's likeness to those of training: the same words count e^10 times as much as a cosine of 0.9."""
KEYS, LABELS = "keys", "labels"


class BlindMethod(Method):
    """A method that reads the question alone, and sends nothing."""

    keeps: ClassVar[str] = "images, questions, answers"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    only_questions: ClassVar[bool] = True

    @property
    def rounds(self) -> int:
        return 1

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        """Check that examples are questions."""
        super().check_feasible(clients)
        if any(len(questions_of(data.train.items[:1])) < len(data.train.items[:1]) for data in clients):
            raise ConfigError(f"method '{self.name}' needs questions about images: use --task vqa")

    @abstractmethod
    def memory(self, data: ClientData) -> PromptState:
        """Return what a client keeps of its training questions."""

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        split, memory = (data.val if len(data.val) else data.train), self.memory(data)
        scores = self.logits(NO_PROMPT, memory, self.setup.classes, split)
        loss = mean_loss(scores, split.labels, len(self.setup.classes))
        right = split.is_right(predicted(scores).cpu()).double().mean().item()
        return Update(data.client, NO_PROMPT, max(1, len(split)), loss, right), memory


@METHODS.register("majority_answer")
class MajorityAnswer(BlindMethod):
    """Give the client's most frequent training answer to questions of the same kind. Nothing is trained or sent."""

    name: ClassVar[str] = "majority answer"
    paper: ClassVar[str] = "none"
    trains: ClassVar[str] = "nothing; answers of each kind of question are counted"

    def memory(self, data: ClientData) -> PromptState:
        return NO_PROMPT

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        scores = torch.full((len(split), len(classes)), NO_CANDIDATE)
        places = {name: k for k, name in enumerate(classes)}
        for row, item in zip(scores, questions_of(split.items), strict=True):
            columns = item.columns(places)
            row[columns] = -torch.arange(len(columns), dtype=row.dtype)
        return scores


@METHODS.register("question_only")
class QuestionOnly(BlindMethod):
    """Answer as the client's training questions that read alike were answered, without a look at the image.

    Training question i votes for its answer with ``exp(100 (cos(q, q_i) - 1))``, with the frozen text tower's vectors,
    so a question in the same words decides by its most frequent answer. Nothing is sent.

    Personal: ``keys`` ``(n, embed_dim)``, the vectors of the training questions; ``labels`` ``(n,)``.
    """

    name: ClassVar[str] = "question only"
    paper: ClassVar[str] = "none"
    trains: ClassVar[str] = "nothing; training questions are compared"

    def memory(self, data: ClientData) -> PromptState:
        return PromptState({KEYS: self._vectors(data.train).cpu(), LABELS: data.train.labels})

    def _vectors(self, split: Split) -> Tensor:
        return F.normalize(self.setup.features.texts([item.question for item in questions_of(split.items)]), dim=-1)

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        places = {name: k for k, name in enumerate(classes)}
        votes = torch.zeros(len(split), len(classes))
        if len(personal):
            weights = (SHARPNESS * (self._vectors(split).cpu() @ personal[KEYS].T - 1)).exp()
            columns = [places.get(self.setup.classes[k], len(classes)) for k in personal[LABELS].tolist()]
            votes = (weights @ F.one_hot(torch.tensor(columns), len(classes) + 1).float())[:, : len(classes)]
        is_candidate = torch.zeros(len(split), len(classes), dtype=torch.bool)
        for row, item in zip(is_candidate, questions_of(split.items), strict=True):
            row[item.columns(places)] = True
        return votes.clamp(min=1e-30).log().where(is_candidate, NO_CANDIDATE)
