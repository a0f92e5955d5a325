"""pFedPrompt: a shared text context, and next to it each client's own labelled features (Guo, Guo, Wang, WWW 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.cosines import cosine_logits
from promptfed.method import METHODS
from promptfed.methods.promptfl import PromptFL
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextConfig, training_images
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split

STRENGTHS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Candidates of ``choose_alpha``."""


class PFedPromptConfig(ContextConfig):
    """Options of the learned context, and of the client's memory of its own images."""

    alpha: float = Field(1.0, ge=0, description="weight of the client's memory, where the client does not choose it")
    beta: float = Field(5.5, gt=0, description="how fast the say of a remembered image falls with its distance")
    choose_alpha: bool = Field(
        True, description="each client chooses alpha (0 to 30) on its own validation images, if it has any"
    )


@METHODS.register("pfedprompt")
class PFedPrompt(PromptFL):
    """Clients tune one context as in PromptFL; each adds a vote of its own labelled images.

    The vote needs no training: ``logits = s N(f(x)) N(T)^T + alpha exp(-beta (1 - N(f(x)) K^T)) Y``.

    Shared: ``ctx`` ``(n_ctx, dim)``. Personal, never sent: ``keys`` K ``(M, embed_dim)``, unit features of the
    client's M training images; ``labels`` ``(M,)``, their base classes, which make the one-hot Y; ``alpha`` ``(1,)``.
    Classes without images at the client get the text term alone, and so does a client that never took part.
    The paper's code is not public and its exact attention is not known to us: this is the training-free form that
    later papers describe (that of Tip-Adapter), without attention over places in the image.
    The memory has no part in training, where every image would match itself in it. The right alpha grows with the
    backbone's logit scale, so by default each client chooses its own on its validation images, in every round.
    """

    name: ClassVar[str] = "pFedPrompt"
    paper: ClassVar[str] = "Guo, Guo, Wang 2023, WWW"
    keeps: ClassVar[str] = "images, their features and labels (M, embed_dim)"
    classes_apart: ClassVar[bool] = True
    Config = PFedPromptConfig

    def __init__(self, config: PFedPromptConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.alpha, self.beta, self.choose_alpha = config.alpha, config.beta, config.choose_alpha

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        memory = {"keys": training_images(self.setup, data), "labels": data.train.labels}
        alpha = self.alpha
        if self.choose_alpha and len(data.val):
            alpha = self._best_alpha(broadcast.shared, memory, data)
        return trained, PromptState({**memory, "alpha": torch.tensor([alpha])})

    def _best_alpha(self, shared: PromptState, memory: dict[str, Tensor], data: ClientData) -> float:
        """Return the smallest of STRENGTHS with the most right validation images, among the client's own classes."""
        labels, classes = torch.tensor(data.classes), [self.setup.classes[i] for i in data.classes]
        texts = self.class_features(shared, PromptState(memory), classes)
        text, memory_vote = self._terms(texts, PromptState(memory), classes, data.val)
        guesses = [labels[(text + strength * memory_vote).argmax(-1).cpu()] for strength in STRENGTHS]
        right = [int((guess == data.val.labels).sum()) for guess in guesses]
        return STRENGTHS[right.index(max(right))]

    def image_logits(
        self, texts: Tensor, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split
    ) -> Tensor:
        if not len(personal):
            return super().image_logits(texts, shared, personal, classes, split)
        text, memory_vote = self._terms(texts, personal, classes, split)
        return text + personal["alpha"].to(text.device) * memory_vote

    @torch.no_grad()
    def _terms(self, texts: Tensor, memory: PromptState, classes: Sequence[str], split: Split) -> tuple[Tensor, Tensor]:
        """Return the term of class features ``texts``, and the memory's vote before alpha: ``(n, classes)`` each."""
        images = self.setup.features.images(split)
        device, nowhere = images.device, len(classes)
        columns = {name: column for column, name in enumerate(classes)}
        remembered = [self.setup.classes[i] for i in memory["labels"].long().tolist()]
        columns_of = torch.tensor([columns.get(name, nowhere) for name in remembered], device=device)
        votes = F.one_hot(columns_of, nowhere + 1)[:, :nowhere].float()
        cosines = F.normalize(images, dim=-1) @ memory["keys"].to(device).T
        text = cosine_logits(images, texts, self.setup.backbone.logit_scale)
        return text, torch.exp(-self.beta * (1 - cosines)) @ votes

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState:
        """Scale the memory's vote by ``alpha``."""
        return PromptState({**personal, "alpha": personal["alpha"] * alpha})
