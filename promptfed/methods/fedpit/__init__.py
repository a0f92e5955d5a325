"""FedPIT's generation: clients write texts like their own, filter and judge them, and send them (Zhang et al. 2024)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import cycle, islice
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import Aggregator
from promptfed.blackbox.text.quotation_filter import Quotations, shortened
from promptfed.blackbox.text.tensors import text_tensor
from promptfed.errors import TrainingError
from promptfed.examples.base import TextItem
from promptfed.frozen_model import Kind
from promptfed.method import METHODS, Method, MethodConfig, Shape
from promptfed.methods.fedpit.draft_collector import DRAFTS, LONGEST, DraftCollector
from promptfed.methods.fedpit.writer import ExampleWriter
from promptfed.prompt_state import PromptState
from promptfed.prompts.synthetic_texts import TEXTS, WEIGHTS, written_texts
from promptfed.prompts.text_states import TextStates
from promptfed.prompts.word_pool import WordPool
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split, Update


class FedPITConfig(MethodConfig):
    """Options of FedPIT's generation."""

    keep: int = Field(16, ge=1, description="synthetic texts of each class that the server keeps at most")
    send: int = Field(4, ge=1, description="texts of each class that a client sends in a round at most")
    tries: int = Field(8, ge=1, description="drafts that a client writes for each text that it may send")
    degree: float = Field(0.5, gt=0, le=1, description="share of a private text's public words that a draft changes")
    quoted_words: int = Field(6, ge=2, description="words in a row from a private text that refuse a draft")
    nearest: float = Field(0.9, gt=0, le=1, description="cosine to a private text of the client that refuses a draft")
    alike: float = Field(0.95, gt=0, le=1, description="cosine of two drafts, or texts, of which the second is dropped")
    margin: float = Field(
        -2.0, description="least log-probability of a draft's class, less that of the best other one, by the model"
    )
    pool: int = Field(300, ge=2, description="words near to a class's description that stand where no other fits")


@METHODS.register("fedpit")
class FedPIT(Method):
    """Synthetic texts that clients write after their own examples.

    Each training text is in its turn the template of drafts: ``degree`` of its words give way to near words of the
    model's vocabulary, or to words of the client's other texts of the class. So do all words that the vocabulary lacks,
    and all of one or two letters but a few English ones. A draft is refused if it quotes a text of the client
    (``quoted_words`` words in a row, addresses, long numbers), if its cosine to one is ``nearest`` or more, if it is
    ``alike`` an earlier draft, or if the frozen model judges it to be of another class: log p(class) - max log p(other)
    < ``margin``, under the task's first prompt. A client sends ``send`` drafts of each class. The server drops near
    copies, takes the clients in turn, in an order that is drawn, up to ``keep`` texts of a class, and uses equally many
    of each class that has any. Texts that it has stay, so one round is enough where all clients take part. A class is
    scored by the cosine to the mean state of its texts.

    Shared: ``texts``, the synthetic texts as JSON, and ``weights`` ``(keep * classes,)``, 1 for those in use; as those
    of ``private_evolution``. Uploaded: ``drafts`` (bytes,), pairs of class and text as JSON. Personal: nothing.

    It promises nothing: no noise is added, and what is sent is made of private words that the vocabulary knows. A
    filter stops copies and no more. ``private_evolution`` has an epsilon.

    Different from the paper: no large model writes or gives marks; texts have labels in the place of answers. The
    paper trains one adapter on synthetic and one on private texts and mixes them; here the texts are the product, and
    train any method (``--data synthetic:RUN``). The turns of clients, the balance and all thresholds are ours.
    """

    name: ClassVar[str] = "FedPIT"
    paper: ClassVar[str] = "Zhang et al. 2024, arXiv 2403.06131"
    trains: ClassVar[str] = "synthetic texts (bytes,)"
    keeps: ClassVar[str] = "texts"
    model_kind: ClassVar[Kind] = "language model"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    classes_apart: ClassVar[bool] = True
    makes_texts: ClassVar[bool] = True
    Config = FedPITConfig
    config: FedPITConfig

    def __init__(self, config: FedPITConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.model = setup.language_model
        self.states = TextStates(self.model)

    @cached_property
    def writer(self) -> ExampleWriter:
        """What writes the drafts."""
        pool = WordPool(self.model)
        near = [pool.near_text(self.model.form.description(name), self.config.pool) for name in self.setup.classes]
        return ExampleWriter(pool, dict(enumerate(near)), self.config.degree)

    # ------------------------------------------------------------------------------------------------ state

    def init_shared(self) -> PromptState:
        return self.state([[] for _ in self.setup.classes])

    def state(self, by_class: Sequence[Sequence[str]]) -> PromptState:
        """Return the shared state of the texts of each class; equally many of each class are in use."""
        keep, fewest = self.config.keep, min((len(texts) for texts in by_class if texts), default=0)
        places = [text for texts in by_class for text in [*texts, *[""] * (keep - len(texts))]]
        weights = [float(k < min(len(texts), fewest)) for texts in by_class for k in range(keep)]
        content = text_tensor(json.dumps(places, ensure_ascii=False))
        return PromptState({TEXTS: content, WEIGHTS: torch.tensor(weights), DRAFTS: text_tensor("")})

    def texts(self, shared: PromptState) -> list[list[str]]:
        """Return the texts of each class."""
        texts, keep = written_texts(shared), self.config.keep
        return [[text for text in texts[start : start + keep] if text] for start in range(0, len(texts), keep)]

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return {DRAFTS: (None,)}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return DraftCollector(aggregator, self)

    # --------------------------------------------------------------------------------------------- training

    def data_notes(self, clients: Sequence[ClientData]) -> tuple[str, ...]:
        return (
            "FedPIT sends texts that are made of private words, without noise: it promises nothing, and promptfed "
            "synthetic RUN measures what they give away",
        )

    def check_trained(self, shared: PromptState) -> None:
        if not any(self.texts(shared)):
            raise TrainingError(
                "no draft of any client was accepted, so FedPIT has made no text: lower the option method.margin, "
                f"raise method.nearest or method.quoted_words (now {self.config.margin:g}, {self.config.nearest:g} and "
                f"{self.config.quoted_words}), or hold more texts of a class"
            )

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        with self.setup.model.account(round=broadcast.round, client=data.client):
            drafts = self.drafts(broadcast, data)
            scores = self.logits(broadcast.shared, personal, self.setup.classes, data.train).cpu()
        labels = data.train.labels
        loss, accuracy = F.cross_entropy(scores, labels).item(), (scores.argmax(1) == labels).float().mean().item()
        upload = PromptState({DRAFTS: text_tensor(json.dumps(drafts, ensure_ascii=False))})
        return Update(data.client, upload, len(labels), loss, accuracy), personal

    @torch.no_grad()
    def drafts(self, broadcast: Broadcast, data: ClientData) -> list[tuple[int, str]]:
        """Return (label, text) of what ``data``'s client sends."""
        stream = torch_stream(self.setup.seed, "fedpit", broadcast.round, data.client)
        examples = [*_texts(data.train), *_texts(data.val)]
        quotations, vectors = Quotations(examples, self.config.quoted_words), self.states.unit_of_texts(examples)
        upload: list[tuple[int, str]] = []
        for label, stock in enumerate(self.texts(broadcast.shared)):
            texts = [text for text, of in zip(examples, data.train.labels.tolist(), strict=False) if of == label]
            if not texts or len(stock) >= self.config.keep:
                continue
            order = torch.randperm(len(texts), generator=stream).tolist()
            places = islice(cycle(order), self.config.send * self.config.tries)
            tries = (self.writer.draft(texts, place, label, stream) for place in places)
            drafts = [text for text in dict.fromkeys(tries) if text and quotations.removed(text) == text]
            drafts = [text for text in drafts if text == shortened(text, LONGEST)]
            upload += [
                (label, text) for text in self.apart(self._passing(drafts, label, vectors), [], self.config.send)
            ]
        return upload

    def _passing(self, drafts: Sequence[str], label: int, examples: Tensor) -> list[str]:
        """Return the drafts that are far enough from a client's ``examples``, and judged to be of their class."""
        if not drafts:
            return []
        items = tuple(TextItem(text) for text in drafts)
        split = Split(items, torch.full((len(items),), label))
        logs = self.model.template_scores(self.setup.templates[0], split, self.setup.classes).log_softmax(-1)
        others = logs.clone()
        others[:, label] = -torch.inf
        margins = (logs[:, label] - others.max(1).values).tolist()
        nearest = (self.states.unit_of_texts(drafts) @ examples.T).max(1).values.tolist()
        rows = zip(drafts, nearest, margins, strict=True)
        return [text for text, near, margin in rows if near < self.config.nearest and margin >= self.config.margin]

    def apart(self, texts: Sequence[str], stock: Sequence[str], most: int) -> list[str]:
        """Return ``stock`` and, up to ``most`` in all, those of ``texts`` that are not alike one before them."""
        result = list(stock)
        if not texts:
            return result
        vectors = self.states.unit_of_texts([*stock, *texts])
        rows = list(range(len(stock)))
        for row in range(len(stock), len(vectors)):
            if len(result) >= most:
                break
            if not rows or float((vectors[rows] @ vectors[row]).max()) <= self.config.alike:
                rows.append(row)
                result.append(texts[row - len(stock)])
        return result

    # ------------------------------------------------------------------------------------------- prediction

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        means = {
            name: F.normalize(self.states.unit_of_texts(texts).mean(0), dim=0)
            for name, texts in zip(self.setup.classes, self.texts(shared), strict=True)
            if texts
        }
        return self.states.class_scores(means, classes, split.items)


def _texts(split: Split) -> list[str]:
    return [item.text for item in split.items if isinstance(item, TextItem)]
