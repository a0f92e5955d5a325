"""FICAL: agents share what they know of tools as a compendium of short records (arXiv 2412.08054)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import Aggregator
from promptfed.aggregators.records import RECORDS, RecordMerge
from promptfed.blackbox.methods.fical.summary import SummaryOfRecords
from promptfed.blackbox.methods.fical.writers import SCHEMA, OracleWriter, short_words
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.text.word_router import SCALE, WordRouter, described, telling_words, words_of
from promptfed.errors import ConfigError
from promptfed.examples.base import TextItem
from promptfed.method import METHODS, Method, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.records.merging import read_records
from promptfed.records.record import NO_RECORDS, Record, RecordSchema, readable, records_tensor
from promptfed.scores import mean_loss, predicted
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split, Update

OWN = "own"
UNCUT = RecordSchema(most_characters=10**7, most_words=10**6, longest_word=10**4)
"""What a client keeps of its own texts: all words, however many."""
MOST_ROWS = 50_000
"""Texts whose scores by the model are kept."""
UNCHOSEN = -100.0
"""The score of a tool that the oracle was not shown."""
INTRODUCTION = "Tools and what is known of them:"


class FicalConfig(MethodConfig):
    """FICAL's options. How the server merges is said by the aggregator's: ``least_clients``, ``keep``, ``words``."""

    writer: Literal["words", "oracle"] = Field(
        "words", description="who writes a record: the client's most telling words, or sentences by the oracle"
    )
    words: int = Field(10, ge=1, le=40, description="most telling words of a tool that a client sends")
    least: int = Field(1, ge=1, description="private uses of a tool that a client needs to write about it")
    merge: Literal["keep", "summary"] = Field(
        "keep", description="keep asks no model; summary has the oracle write one record of a tool's several"
    )
    route: Literal["auto", "words", "both", "oracle"] = Field(
        "auto",
        description="who chooses the tool: words' cosines, they and the model's own scores, or an oracle among the "
        "nearest tools; auto: both with a language model, words with an oracle",
    )
    nearest: int = Field(3, ge=1, description="tools whose records the oracle is shown, of route=oracle")
    quoted_words: int = Field(
        6, ge=2, description="words in a row from a private text that make a sentence too private to be sent"
    )
    record_tokens: int = Field(90, ge=8, description="most tokens of a record that the oracle writes")


@METHODS.register("fical")
class Fical(Method):
    """Each client writes what tells that a request is for a tool; the server merges by tool; records route requests.

    A client writes one record for each tool of which it holds ``least`` private uses or more: with writer ``words`` the
    most telling words of its requests (no model is asked), with ``oracle`` sentences by a language model, cut by the
    filter of quotations. Words that name single things (numbers of four digits, addresses) are left out. The server
    keeps the words, or sentences, of each tool (``promptfed.aggregators.records``), and refuses records that give
    orders to agents. A request goes to the tool whose description and records have the nearest words (TF-IDF); with
    route ``both`` the model's scores of the descriptions are added, with ``oracle`` it chooses among the ``nearest``.

    Shared: ``records`` (bytes,), JSON lines. Personal: ``own`` (bytes,), all words of the client's own texts, uncut.

    Clients say the same in each round: one is enough where all take part.

    Different from the paper: a language model writes and merges there, and records are found by embeddings; we have
    not seen its tables. Words, support counts, the two-clients rule and the refusals are ours.
    """

    name: ClassVar[str] = "FICAL"
    paper: ClassVar[str] = "arXiv 2412.08054"
    trains: ClassVar[str] = "text records (bytes,)"
    keeps: ClassVar[str] = "texts, uncut records"
    access: ClassVar[Literal["white box", "black box", "any"]] = "any"
    only_texts: ClassVar[bool] = True
    aggregators: ClassVar[tuple[str, ...]] = ("records",)
    Config: ClassVar[type[MethodConfig]] = FicalConfig
    config: FicalConfig

    def __init__(self, config: FicalConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        asking = [f"{name}={value}" for name, value in self._asking().items()]
        if asking and setup.model.kind != "oracle":
            raise ConfigError(
                f"method option {asking[0]} asks an oracle, and the run's model is the {setup.model.kind} "
                f"'{setup.model.name}': name one that writes, such as --oracle gemma, or leave the option out"
            )
        if config.writer == "oracle" or config.merge == "summary":
            setup.model.check_offers({"generation"}, f"method option {asking[0]}")
        by_kind = "both" if setup.model.kind == "language model" else "words"
        self.route = by_kind if config.route == "auto" else config.route
        self._model_rows: dict[tuple[str, tuple[str, ...]], Tensor] = {}  # what the frozen model says, asked once
        self.writer = OracleWriter(setup, config.record_tokens, config.quoted_words) if asking else None

    def _asking(self) -> dict[str, str]:
        """Return the options that have the oracle asked."""
        config = self.config
        asks = {"writer": config.writer == "oracle", "merge": config.merge == "summary"}
        asks["route"] = config.route == "oracle"
        return {name: getattr(config, name) for name, is_asking in asks.items() if is_asking}

    def init_shared(self) -> PromptState:
        return PromptState({RECORDS: NO_RECORDS})

    def init_personal(self, client: int) -> PromptState:
        return PromptState({OWN: NO_RECORDS})

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return {RECORDS: (None,)}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        if not isinstance(aggregator, RecordMerge):  # that of a baseline
            return aggregator
        rule = aggregator.reading(SCHEMA, self.setup.classes)
        if self.config.merge == "keep":
            return rule
        return SummaryOfRecords(rule, self.setup.oracle, self.config.record_tokens)

    # --------------------------------------------------------------------------------------------- training

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        super().check_feasible(clients)
        most = max(max(data.train.counts(len(self.setup.classes)), default=0) for data in clients)
        if most < self.config.least:
            raise ConfigError(
                f"method option 'least' is {self.config.least}, and no client holds so many training requests of one "
                f"tool: the most is {most} (--set method.least={most}, or raise --shots)"
            )

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        uses = {tool: texts for tool, texts in self._uses(data).items() if len(texts) >= self.config.least}
        if self.config.writer == "oracle" and self.writer is not None:
            with self.setup.model.account(round=broadcast.round, client=data.client):
                records = self.writer.records(uses, data)
        else:
            records = word_records(uses, self.config.words)
        uncut = PromptState({OWN: records_tensor(uncut_records(self._uses(data)))})
        split = data.val if len(data.val) else data.train
        after = PromptState({RECORDS: records_tensor(records)})
        scores = self._word_scores(after, uncut, self.setup.classes, split)  # no query for a figure of the log
        loss = mean_loss(scores, split.labels, len(self.setup.classes))
        accuracy = (predicted(scores) == split.labels).double().mean().item()
        return Update(data.client, after, max(1, len(data.train)), loss, accuracy), uncut

    def _uses(self, data: ClientData) -> dict[str, list[str]]:
        """Return tool -> the client's training requests for it."""
        uses: dict[str, list[str]] = {}
        for item, label in zip(data.train.items, data.train.labels.tolist(), strict=True):
            uses.setdefault(self.setup.classes[label], []).append(text_of_item(item))
        return uses

    # ------------------------------------------------------------------------------------------- prediction

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        scores = self._word_scores(shared, personal, classes, split)
        if self.route == "words" or not len(split):
            return scores
        if self.route == "both":
            return scores + self._model_scores(classes, split)
        return self._asked(scores, self.records(shared), classes, split)

    def _model_scores(self, classes: Sequence[str], split: Split) -> Tensor:
        """Return the model's scores ``(n, classes)`` of the descriptions under the task's first prompt."""
        names = tuple(dict.fromkeys((*self.setup.classes, *classes)))
        wanted = {(item.content_id(), names): row for row, item in enumerate(split.items)}
        new = {key: row for key, row in wanted.items() if key not in self._model_rows}
        if new:
            rows = list(new.values())
            part = Split(tuple(split.items[row] for row in rows), split.labels[rows])
            answers = self.setup.model.template_scores(self.setup.templates[0], part, names).cpu()
            if len(self._model_rows) > MOST_ROWS:
                self._model_rows.clear()
            self._model_rows.update(zip(new, answers, strict=True))
        rows_of = [self._model_rows[item.content_id(), names] for item in split.items]
        return torch.stack(rows_of)[:, [names.index(name) for name in classes]]

    def records(self, shared: PromptState) -> list[Record]:
        """Return the records of a compendium that may be used; what a server should have refused is left out here."""
        return read_records(shared[RECORDS], SCHEMA, self.setup.classes)[0] if RECORDS in shared else []

    def shared_text(self, shared: PromptState) -> str:
        return readable(self.records(shared))

    def _word_scores(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        """Return scores ``(n, classes)`` by the words of descriptions and records."""
        names = list(dict.fromkeys((*self.setup.classes, *classes)))
        documents = described(names, self.setup.model.form)
        uncut = read_records(personal[OWN], UNCUT)[0] if OWN in personal else []
        for record in (*self.records(shared), *uncut):
            if record.key in documents:
                documents[record.key].update(record.word_counts())
                documents[record.key].update(words_of(f"{record.texts.get('when', '')} {record.texts.get('how', '')}"))
        router = WordRouter(list(documents.values()))
        columns = [names.index(name) for name in classes]
        return SCALE * router.cosines(text_of_item(item) for item in split.items)[:, columns]

    def _asked(self, scores: Tensor, records: Sequence[Record], classes: Sequence[str], split: Split) -> Tensor:
        """Return scores in which the oracle has chosen among the tools that are nearest by their words."""
        facts: dict[str, list[str]] = {}
        for record in records:
            sentences = [text for text in record.texts.values() if text]
            facts.setdefault(record.key, []).extend(sentences or [f"asked about {', '.join(record.words[:12])}"])
        form, result = self.setup.oracle.form, torch.full_like(scores, UNCHOSEN)
        nearest = scores.topk(min(self.config.nearest, len(classes)), dim=1).indices
        for row, places in enumerate(nearest.tolist()):
            names = [classes[place] for place in sorted(places)]
            lines = [f"{form.word(n)}: {form.description(n)} {' '.join(facts.get(n, []))}".strip() for n in names]
            prompt = Candidate("\n".join([INTRODUCTION, *lines, ""]))
            [[answer]] = self.setup.oracle.score([prompt], [split.items[row]], names)
            result[row, sorted(places)] = answer.to(result.dtype)
        return result


def text_of_item(item: object) -> str:
    """Return the text of an example."""
    assert isinstance(item, TextItem), "the method takes tasks with texts alone"
    return item.text


def word_records(uses: Mapping[str, Sequence[str]], count: int) -> list[Record]:
    """Return a record of the ``count`` most telling words for each tool of ``uses``, which has its requests."""
    records = []
    for tool, words in telling_words(uses).items():
        if short := short_words(words, count):
            records.append(Record(tool, words=short, support=len(uses[tool])))
    return records


def uncut_records(uses: Mapping[str, Sequence[str]]) -> list[Record]:
    """Return a record of all words of each tool's requests, with the number of requests that have them."""
    return [
        Record(tool, words=tuple(words), counts=tuple(words.values()), support=len(uses[tool]))
        for tool, words in telling_words(uses).items()
        if words
    ]
