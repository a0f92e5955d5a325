"""Fed-ICL: clients answer public questions with their own examples in context (Wang et al. 2025, arXiv 2506.07440)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.blackbox.base import BlackBoxConfig, BlackBoxMethod, ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.text.public_texts import agreed_questions
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.blackbox.tokens.prompt_pool import pool_tag
from promptfed.errors import FormatError, TrainingError
from promptfed.examples.base import TextItem
from promptfed.method import METHODS, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.readers.json_reader import parse_json
from promptfed.scores import as_if_uniform
from promptfed.seeding import numpy_stream
from promptfed.setup import Setup
from promptfed.types import UNKNOWN_LABEL, Broadcast, ClientData, Split
from promptfed.worked_examples import WorkedExample, with_examples

TAG, ANSWERS, WEIGHT, OWN = "questions", "answers", "weight", "own"
FLOOR = math.log(1e-3)
"""The least log-probability that a client sends: one that never saw a class does not veto it."""
FOLDS = 2


class FedICLConfig(BlackBoxConfig):
    """Options of Fed-ICL."""

    questions: str | tuple[str, ...] = Field(
        "bundled",
        description="public texts without labels: 'bundled' (of the bundled classes), 'file:PATH' with one a line "
        "(read once, when a run is set up), or a list; the same at all parties",
    )
    instruction: str | None = Field(None, description="what stands before the demonstrations [the task's first prompt]")
    own: int = Field(12, ge=0, description="demonstrations of a client's own, as many of each of its classes")
    shown: int = Field(24, ge=0, description="answered questions in the prompt, as many of each answer, the surest")
    answer: Literal["log_probabilities", "probabilities", "votes"] = Field(
        "log_probabilities", description="what a client sends of a question, for each class"
    )
    prior: Literal["model", "uniform"] = Field(
        "model", description="uniform: take off what the model says of all questions alike, its bias for a label"
    )
    weight: Literal["validation", "equal"] = Field(
        "validation", description="a client's weight: the share of its validation examples that it has right, or 1"
    )


@METHODS.register("fedicl")
class FedICL(BlackBoxMethod):
    """Public questions without labels are answered by all, and the answers become everybody's demonstrations.

    In each round a client has the frozen model answer the Q questions with worked examples before them: ``own`` of its
    private ones, and ``shown`` questions with the server's present answers. A question is never answered with its own
    answer in sight: even ones see odd ones, and conversely. It sends ``w a`` ``(Q, classes)`` and ``w``, with a the
    log-probabilities (``log_probabilities``, at least log 0.001), the probabilities, or 1 for the best class
    (``votes``), and w the share of its validation examples that this prompt gets right, (right + 1) / (n + 2). The
    server adds both up; ``sum w a / sum w`` is its answer, the largest its label. The prompt is the surest answers, as
    many of each label; a client that took part puts its own demonstrations behind them.

    Shared: ``answers`` ``(Q, classes)`` and ``weight`` ``(1,)``, means over clients; down also the questions' tag.
    Personal: ``own`` (bytes,), its demonstrations, which never leave.

    Different from the paper, of which we know the abstract and summaries: questions are sorted into classes, where its
    models write answers that a server has to merge; demonstrations are drawn once, where it picks them for each
    question; the two halves, the weights by validation and the floor are ours.
    """

    name: ClassVar[str] = "Fed-ICL"
    paper: ClassVar[str] = "Wang et al. 2025, ICML, arXiv 2506.07440"
    trains: ClassVar[str] = "answers to public questions (questions, classes)"
    keeps: ClassVar[str] = "texts, all demonstrations"
    requires: ClassVar[frozenset[str]] = frozenset({"text prompts"})
    only_texts: ClassVar[bool] = True
    for_sums: ClassVar[Mapping[str, str]] = {"answer": "probabilities"}
    aggregators: ClassVar[tuple[str, ...]] = (
        "uniform", "mean", "norm_clip", "median", "trimmed_mean", "geometric_median",
    )  # fmt: skip
    Config: ClassVar[type[MethodConfig]] = FedICLConfig
    config: FedICLConfig

    def __init__(self, config: FedICLConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.questions = agreed_questions(config.questions, setup.classes)
        self.tag = pool_tag(self.questions, *setup.classes)
        items = tuple(TextItem(text) for text in self.questions)
        self.split = Split(items, torch.full((len(items),), UNKNOWN_LABEL))

    def init_shared(self) -> PromptState:
        empty = torch.zeros(len(self.questions), len(self.setup.classes))
        return PromptState({ANSWERS: empty, WEIGHT: torch.zeros(1), TAG: self.tag})

    def init_personal(self, client: int) -> PromptState:
        return PromptState({OWN: text_tensor("[]")})

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return {name: tuple(sent[name].shape) for name in (ANSWERS, WEIGHT)}

    def check_agreed(self, shared: PromptState) -> None:
        """Raise TrainingError if the server's answers are to other questions than ours."""
        if shared[TAG].tolist() != self.tag.tolist():
            raise TrainingError(
                "the server's public questions are not those that are read here of option questions: all parties need "
                "the same file and classes"
            )

    # --------------------------------------------------------------------------------------------- training

    def step_queries(self, data: ClientData) -> int:
        """Return the queries of a round: the questions, and the validation examples that the weight takes."""
        return len(self.questions) + len(self._judged(data))

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        shared = broadcast.shared
        self.check_agreed(shared)
        if desk.left < self.step_queries(data):
            return PromptState({name: shared[name] for name in (ANSWERS, WEIGHT)}), personal
        own = self.demonstrations(data)
        scores = torch.zeros_like(shared[ANSWERS])
        for fold in range(FOLDS):
            rows = torch.arange(fold, len(self.questions), FOLDS)
            others = [k for k in range(len(self.questions)) if k % FOLDS != fold]
            prompt = Candidate(self.prompt([*self.answered(shared, others), *own]))
            scores[rows] = desk.scores([prompt], rows, split=self.split)[0][0]
        judged, weight = self._judged(data), 1.0
        prompt = Candidate(self.prompt([*self.answered(shared), *own]))
        desk.losses([prompt], torch.arange(len(judged)), split=judged)
        if self.config.weight == "validation":
            weight = (desk.accuracy * len(judged) + 1) / (len(judged) + 2)
        answers = weight * self.answers(scores)
        kept = text_tensor(json.dumps([[one.text, one.name] for one in own], ensure_ascii=False))
        return PromptState({ANSWERS: answers, WEIGHT: torch.tensor([weight])}), PromptState({OWN: kept})

    def _judged(self, data: ClientData) -> Split:
        """Return the examples that a client judges its prompt by."""
        return data.val if len(data.val) else data.train

    def demonstrations(self, data: ClientData) -> list[WorkedExample]:
        """Return ``own`` of a client's training examples, in turn of each of its classes, in a fixed order."""
        order = numpy_stream(self.setup.seed, "demonstrations", self.name, data.client).permutation(len(data.train))
        places = in_turn(order.tolist(), data.train.labels.tolist(), self.config.own)
        pairs = [(data.train.items[k], int(data.train.labels[k])) for k in places]
        return [self._example(item.text, label) for item, label in pairs if isinstance(item, TextItem)]

    def answers(self, scores: Tensor) -> Tensor:
        """Return what a client says of questions with the ``scores`` ``(Q, classes)``, before its weight."""
        logs = as_if_uniform(scores).log_softmax(-1)
        if self.config.prior == "uniform":
            logs = (logs - logs.mean(0)).log_softmax(-1)
        if self.config.answer == "log_probabilities":
            return logs.clamp(min=FLOOR)
        return (
            logs.exp() if self.config.answer == "probabilities" else F.one_hot(logs.argmax(-1), logs.shape[1]).float()
        )

    # ------------------------------------------------------------------------------------------- prediction

    def answered(self, shared: PromptState, places: Sequence[int] | None = None) -> list[WorkedExample]:
        """Return ``shown`` of the questions at ``places`` with the server's labels, in turn of each, the surest first.

        Without an answer yet there are none.
        """
        if not shared[WEIGHT].any():
            return []
        best = shared[ANSWERS].topk(2, dim=1)
        margins, labels = (best.values[:, 0] - best.values[:, 1]).tolist(), best.indices[:, 0].tolist()
        order = sorted(range(len(labels)) if places is None else places, key=lambda k: (-margins[k], k))
        return [self._example(self.questions[k], labels[k]) for k in in_turn(order, labels, self.config.shown)]

    def _example(self, text: str, label: int) -> WorkedExample:
        return WorkedExample(text, self.setup.classes[label])

    def prompt(self, examples: Sequence[WorkedExample]) -> str:
        """Return the prompt with ``examples`` behind the instruction."""
        given = self.config.instruction
        return with_examples(self.oracle.form, self.setup.templates[0] if given is None else given, examples)

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        own = kept_examples(text_of(personal[OWN]), self.setup.classes) if OWN in personal else []
        return Candidate(self.prompt([*self.answered(shared), *own]))


def kept_examples(content: str, classes: Sequence[str]) -> list[WorkedExample]:
    """Return the demonstrations that a client's own state holds as JSON; what is none is left out."""
    try:
        rows = parse_json(content, any_strings=True)
    except FormatError:
        return []
    pairs = [row for row in rows if isinstance(row, list) and len(row) == 2] if isinstance(rows, list) else []
    return [WorkedExample(text, name) for text, name in pairs if isinstance(text, str) and name in classes]


def in_turn(order: Sequence[int], labels: Sequence[int], count: int) -> list[int]:
    """Return ``count`` places of ``order``: the first of each label, then the second of each, and so on."""
    turns: dict[int, int] = {}
    ranked = []
    for position, place in enumerate(order):
        turn = turns.get(labels[place], 0)
        turns[labels[place]] = turn + 1
        ranked.append((turn, position, place))
    return [place for _, _, place in sorted(ranked)[:count]]
