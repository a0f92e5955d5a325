"""Fed-SP-SC and Fed-DP-CoT: answers by vote over several wordings, or by shared worked examples (Liu et al. 2023)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import Aggregator
from promptfed.blackbox.base import BlackBoxConfig, BlackBoxMethod, ClientOracle
from promptfed.blackbox.methods.fedspsc.demonstrations import Demonstration, Demonstrations, packed
from promptfed.blackbox.methods.fedspsc.paraphrase import rephrased
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.text.instructions import phrasings
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES, Item, QuestionItem, TextItem
from promptfed.examples.exact_match import final_answer
from promptfed.method import METHODS, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.readers.json_reader import parse_json
from promptfed.scores import predicted
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split


class FedSPSCConfig(BlackBoxConfig):
    """Options of Fed-SP-SC and Fed-DP-CoT."""

    queries: int = Field(160, ge=1, description="queries of a client in the one round")
    variant: Literal["sp", "dp"] = Field("sp", description="sp: vote over wordings; dp: voted worked examples")
    phrasings: int = Field(5, ge=1, description="wordings of a question: the task's prompts, then bundled ones")
    rephrase: Literal["prompts", "model"] = Field(
        "prompts", description="another wording is another prompt before the text, or the text as the model rewords it"
    )
    samples: int = Field(1, ge=1, description="answers of each wording when free answers are voted on")
    temperature: float = Field(0.7, gt=0, description="of these answers, if there are several; one is the likeliest")
    questions: int = Field(2, ge=1, description="of dp: a client's questions that go to the server, as text")
    demonstrations: int = Field(4, ge=1, description="of dp: worked examples in the prompt")
    most_characters: int = Field(2000, ge=100, description="of dp: length of all worked examples")
    only_right: bool = Field(False, description="of dp: send only what the client knows to be right (paper: no labels)")


@METHODS.register("fedspsc")
class FedSPSC(BlackBoxMethod):
    """Nothing is trained, and there is one round.

    Variant ``sp`` (self-consistency over synonymous questions): every question is asked in M wordings and the answer is
    the most frequent reply; of equal ones, that of the wordings which were right more often on the clients' training
    examples. Shared: ``phrasings``, JSON (bytes,), and ``right`` (M,), these shares. Sent up: ``right``.

    Variant ``dp`` (questions with other parameters): a client has some of its questions answered in M wordings and
    sends question, the worked answer that most wordings agree with, and how many do, **as text: nothing hides it**. The
    server puts the most agreed ones before every question, with a warning that they may be wrong. Shared:
    ``demonstrations`` (bytes,). Sent up: ``found``, JSON (bytes,).

    Answers are labels, or the final answers of task ``cot``. The paper's server finds the synonyms among the questions
    of many users; our clients hold no synonyms, so wordings are hand-written prompts, or the model's paraphrases. In
    dp the paper's server asks and votes, here the clients do, within their budget.
    """

    name: ClassVar[str] = "Fed-SP-SC"
    paper: ClassVar[str] = "Liu et al. 2023, arXiv 2304.13911"
    trains: ClassVar[str] = "nothing; wordings to vote over, or worked examples"
    keeps: ClassVar[str] = "sp: texts; dp: texts but for the questions that are sent"
    requires: ClassVar[frozenset[str]] = frozenset({"text prompts"})
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    Config: ClassVar[type[MethodConfig]] = FedSPSCConfig
    config: FedSPSCConfig

    def __init__(self, config: FedSPSCConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.phrasings = tuple(dict.fromkeys((*setup.templates, *phrasings(self.oracle))))[: config.phrasings]
        if config.rephrase == "model":
            self.oracle.check_offers({"generation"}, "method.rephrase=model")
        if config.queries < self._cost:
            raise ConfigError(
                f"method option 'queries' is {config.queries}, but one question in all wordings takes {self._cost}: "
                "allow as many, or ask for fewer (--set method.phrasings)"
            )

    @property
    def rounds(self) -> int:
        return 1

    @property
    def _is_sp(self) -> bool:
        return self.config.variant == "sp"

    @property
    def _answers_freely(self) -> bool:
        return tuple(self.setup.classes) == ANSWER_CLASSES

    @property
    def _samples(self) -> int:
        return self.config.samples if self._answers_freely else 1

    @property
    def _cost(self) -> int:
        """Return the queries for one question in all its wordings."""
        count = len(self.phrasings)
        return count * self._samples + (count - 1 if self.config.rephrase == "model" else 0)

    def init_shared(self) -> PromptState:
        if self._is_sp:
            encoded = json.dumps(self.phrasings, ensure_ascii=False)
            return PromptState({"phrasings": text_tensor(encoded), "right": torch.zeros(len(self.phrasings))})
        return PromptState({"demonstrations": text_tensor("")})

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return {"right": (len(self.phrasings),)} if self._is_sp else {"found": (None,)}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        if self._is_sp:
            return aggregator
        return Demonstrations(self._shown, self.config.demonstrations, self.config.most_characters)

    def _shown(self, example: Demonstration) -> str:
        return f"{self.oracle.form.example(example.question)} {example.answer}"

    # --------------------------------------------------------------------------------------------- training

    def step_queries(self, data: ClientData) -> int:
        """Return the queries for one question in all its wordings."""
        return self._cost

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        affordable = desk.left // self._cost
        rows = desk.batch(affordable if self._is_sp else min(affordable, self.config.questions))
        desk.spend(self._cost * len(rows))
        items, labels = [data.train.items[i] for i in rows.tolist()], data.train.labels[rows]
        full = self._full(items) if self._answers_freely else []
        answers = [list(map(final_answer, row)) for row in full] or self._labels(items, self.setup.classes)
        label_rows = [[self._label(answer, item) for answer, item in zip(row, items, strict=True)] for row in answers]
        right = (torch.tensor(label_rows) == labels).float()
        winners = [vote([row[i] for row in answers], [1.0] * len(answers)) for i in range(len(items))]
        won = [self._label(winner, item) == int(k) for (winner, _), item, k in zip(winners, items, labels, strict=True)]
        desk.accuracy = sum(won) / len(won)
        desk.loss = 1 - desk.accuracy
        if self._is_sp:
            return PromptState({"right": right.reshape(len(self.phrasings), -1).mean(1)}), personal
        examples = [
            Demonstration(item.text, self._worked(winner, [row[i] for row in full]), share)
            for i, (item, (winner, share)) in enumerate(zip(items, winners, strict=True))
            if isinstance(item, TextItem) and winner and (won[i] or not self.config.only_right)
        ]
        return PromptState({"found": text_tensor(packed(examples))}), personal

    def _worked(self, winner: str, full: Sequence[str]) -> str:
        """Return the first answer that comes to ``winner``; a label's word."""
        if not self._answers_freely:
            return self.oracle.form.word(winner)
        return next(text for text in full if final_answer(text) == winner).strip()

    def _label(self, answer: str, item: Item) -> int:
        """Return the class that an answer amounts to; -1 for a label that is none."""
        if isinstance(item, QuestionItem):
            return ANSWER_CLASSES.index("right" if answer == final_answer(item.answer) != "" else "wrong")
        return self.setup.classes.index(answer) if answer in self.setup.classes else -1

    # ------------------------------------------------------------------------------------------------ asking

    def _worded(self, items: Sequence[Item]) -> list[tuple[Candidate, list[Item]]]:
        """Return for each wording the prompt and its texts of ``items``."""
        if self.config.rephrase == "prompts":
            return [(Candidate(text), list(items)) for text in self.phrasings]
        plain = Candidate(self.phrasings[0])
        paraphrases = [rephrased(self.oracle, items, k) for k in range(len(self.phrasings) - 1)]
        return [(plain, reworded) for reworded in (list(items), *paraphrases)]

    def _full(self, items: Sequence[Item]) -> list[list[str]]:
        """Return the replies to each of ``items``, one list for each wording and sample, in this order."""
        form, replies = self.oracle.form, []
        temperature = self.config.temperature if self._samples > 1 else 0.0
        for prompt, reworded in self._worded(items):
            texts = [form.render(prompt.text, item.text) for item in reworded if isinstance(item, TextItem)]
            for sample in range(self._samples):
                replies.append(
                    self.oracle.generate(
                        texts, max_tokens=form.answer_tokens, temperature=temperature, sample=sample, stop=form.stop
                    )
                )
        return replies

    def _labels(self, items: Sequence[Item], classes: Sequence[str]) -> list[list[str]]:
        """Return the classes that fit ``items`` best, one list for each wording; empty without an answer."""
        names, labels = [*classes, ""], []
        for prompt, reworded in self._worded(items):
            split = Split(tuple(reworded), torch.zeros(len(reworded), dtype=torch.int64))
            labels.append([names[k] for k in predicted(self.scored([prompt], classes, split)[0]).tolist()])
        return labels

    # ------------------------------------------------------------------------------------------- prediction

    @property
    def sends_one_prompt(self) -> bool:
        return not self._is_sp

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        """Return the worked examples (dp), or the wording that was right most often (sp; predictions take all)."""
        if self._is_sp:
            return Candidate(parse_json(text_of(shared["phrasings"]))[int(shared["right"].argmax())])
        return Candidate(text_of(shared["demonstrations"]))

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        """Return shares of the votes ``(n, classes)``; of free answers, 1 for "right" if the winner is right."""
        if not self._is_sp or not len(split):
            return super().logits(shared, personal, classes, split)
        weights = vote_weights(shared["right"].repeat_interleave(self._samples))
        if not self._answers_freely:
            answers = self._labels(split.items, classes)
            places = {name: k for k, name in enumerate((*classes, ""))}  # the last one is for no answer
            columns = torch.tensor([[places[answer] for answer in row] for row in answers])
            votes = F.one_hot(columns, len(places))[..., :-1].double() * weights[:, None, None]
            share = votes.sum(0) / weights.sum()
            return share.where(share.sum(-1, keepdim=True) > 0, torch.nan).float()
        answers = [list(map(final_answer, row)) for row in self._full(split.items)]
        winners = [vote([row[i] for row in answers], weights.tolist())[0] for i in range(len(split))]
        hit = torch.tensor([self._label(w, item) for w, item in zip(winners, split.items, strict=True)])
        return F.one_hot(hit, len(ANSWER_CLASSES)).float()[:, [ANSWER_CLASSES.index(name) for name in classes]]


def vote_weights(right: Tensor) -> Tensor:
    """Return weights ``(m,)`` of votes: 1 plus so little for accuracy in 0..1 that it only decides between equals.

    A mean under the noise of a private run may lie outside.
    """
    return 1 + right.double().clamp(0, 1) / (2 * len(right) + 1)


def vote(answers: Sequence[str], weights: Sequence[float]) -> tuple[str, float]:
    """Return the answer with the most weight, the first of equals, and its share; empty answers are abstentions."""
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer:
            totals[answer] = totals.get(answer, 0.0) + weight
    if not totals:
        return "", 0.0
    best = max(totals, key=lambda answer: totals[answer])
    return best, answers.count(best) / len(answers)
