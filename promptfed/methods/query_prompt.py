"""A query prompt: soft tokens before every request, so that its vector lies nearer to documents that answer it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.examples.base import Item
from promptfed.local_training import LocalObjective
from promptfed.method import METHODS, MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.soft_prompt_method import SoftPromptConfig, SoftPromptMethod
from promptfed.prompts.text_states import TextStates
from promptfed.setup import Setup
from promptfed.types import ClientData, Split


class QueryPromptConfig(SoftPromptConfig):
    """Options of the query prompt."""

    lr: float = Field(0.01, gt=0, description="learning rate")
    n_tokens: int = Field(4, ge=1, le=64, description="vectors of the prompt")
    temperature: float = Field(0.05, gt=0, description="cosines are divided by it")


@METHODS.register("query_prompt")
class QueryPrompt(SoftPromptMethod):
    """Clients tune a soft prompt before requests; documents are read without it, so no index is made anew.

    With q_i the unit vector of request i behind the prompt, d_j those of the client's documents, and A_i the documents
    that answer i, the loss is InfoNCE over the client's own documents,
    ``-log(sum_{j in A_i} exp(q_i.d_j / T) / sum_j exp(q_i.d_j / T))``. The documents of the sum are those that answer
    any of the client's requests. Requests that no document of the client answers are left out.

    Shared: ``prompt_embeddings`` ``(n_tokens, width)``. Personal: nothing. Engines are ranked as zero-shot ranks them,
    by the cosine of the request behind the prompt and their descriptions; `promptfed search RUN` asks them.

    Different from the paper: it trains nothing; this is the contrastive loss of dense retrieval on a prompt.
    """

    name: ClassVar[str] = "query prompt"
    paper: ClassVar[str] = "promptfed's own, for FeB4RAG: Wang et al. 2024, SIGIR, arXiv 2402.11891"
    trains: ClassVar[str] = "soft prompt (n_tokens, width)"
    keeps: ClassVar[str] = "requests, documents"
    Config: ClassVar[type[MethodConfig]] = QueryPromptConfig
    config: QueryPromptConfig

    def __init__(self, config: QueryPromptConfig, setup: Setup) -> None:
        if setup.language_model.has_words or config.head not in ("auto", "cosine"):
            raise ConfigError(
                "method 'query_prompt' compares vectors of texts, so it needs an encoder and its cosine head: use "
                "--backbone lm:minilm"
            )
        super().__init__(config, setup)
        self._documents = TextStates(self.model)
        self._answers: WeakKeyDictionary[Split, tuple[Tensor, Tensor]] = WeakKeyDictionary()

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        """Check that somebody has requests with documents that answer them."""
        super().check_feasible(clients)
        if any(data.train.items for data in clients) and not any(answered(data.train).items for data in clients):
            raise ConfigError(
                "method 'query_prompt' needs requests with documents that answer them: use --task federated-search "
                "with data that have documents (texts:, beir:, testbed: or squad:)"
            )

    def objective(self, values: PromptState, split: Split, names: Collection[str] | None = None) -> LocalObjective:
        return super().objective(values, answered(split), names)

    def loss_on(self, tensors: Mapping[str, Tensor], split: Split, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return InfoNCE of some ``rows``, and their scores of all documents ``(rows, documents)``."""
        documents, answers = self._answers_of(split)
        queries = self.vectors(tensors, [split.items[row] for row in rows.tolist()])
        scores = queries @ documents.T / self.config.temperature
        of_answers = scores.masked_fill(~answers[rows.to(answers.device)], -torch.inf)
        return (scores.logsumexp(1) - of_answers.logsumexp(1)).mean(), scores.detach()

    def _answers_of(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return unit vectors of a split's documents, and which of them answer each request; made once a split."""
        if split not in self._answers:
            texts = documents_of(split)
            vectors = self._documents.unit_of_texts(texts)
            answers = torch.tensor([[text in passages_of(item) for text in texts] for item in split.items])
            self._answers[split] = vectors, answers.to(vectors.device)
        return self._answers[split]

    def vectors(self, tensors: Mapping[str, Tensor], items: Sequence[Item]) -> Tensor:
        """Return unit vectors ``(items, width)`` of requests behind the prompt; gradients flow to ``tensors``."""
        return F.normalize(self.model.states(items, self.kind.insert(tensors), reserve=self.reserve), dim=-1)


def passages_of(item: Item) -> tuple[str, ...]:
    """Return the client's own documents that answer a request."""
    passages: tuple[str, ...] = getattr(item, "passages", ())
    return passages


def documents_of(split: Split) -> list[str]:
    """Return the documents that answer any request of a split, each once."""
    return list(dict.fromkeys(text for item in split.items for text in passages_of(item)))


def answered(split: Split) -> Split:
    """Return the requests that a document of the client answers; labels index ``documents_of`` them."""
    items = tuple(item for item in split.items if passages_of(item))
    kept = replace(split, items=items, labels=split.labels[:0])
    places = {text: place for place, text in enumerate(documents_of(kept))}
    return replace(kept, labels=torch.tensor([places[passages_of(item)[0]] for item in items], dtype=torch.int64))
