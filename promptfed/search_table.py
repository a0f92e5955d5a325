"""A run of federated search put to work: engines are selected and asked, and their lists merged and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

import numpy as np
import torch
from torch.nn import functional as F

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError
from promptfed.examples.base import TextItem
from promptfed.export.finished import FinishedRun
from promptfed.language_models.kept_states import KeptStates
from promptfed.language_models.model import LanguageModel
from promptfed.methods.descriptor import descriptors_of
from promptfed.methods.query_prompt import QueryPrompt
from promptfed.retrieval.calibration import fit_calibration
from promptfed.retrieval.collection import Collection, Request
from promptfed.retrieval.federated import BM25, INDICES, Engine, Query, Reply, ask
from promptfed.retrieval.figures import ndcg
from promptfed.retrieval.index import TermStatistics, best, words_of
from promptfed.retrieval.merging import MERGES, Answers, Hit
from promptfed.retrieval.selection import centroid, cori, descriptor
from promptfed.seeding import numpy_stream
from promptfed.tasks.federated_search import CHARACTERS, Dealt, FederatedSearchConfig, deal
from promptfed.tasks.sources.retrieval import load_collection

TASK = "federated-search"
LISTED = 10
"""Hits of an engine, and documents of a merged list that are judged."""
CALIBRATED = "calibrated"
"""The merge that needs a calibration."""
CONTEXT = 3
"""The best documents of a merged list, in which an answer is looked for."""


@dataclass(frozen=True)
class Row:
    """Means over the test requests of one index, one selection.

    Attributes:
        index: "bm25" or "cosine".
        selection: By what the engines were selected.
        asked: How many are asked.
        recall: Of the engines that have a relevant document, as many as are asked at most, the share that is asked.
        bytes: Of a request: to the engines that are asked and back.
        ndcg: Merge -> nDCG@10 of documents with linear gain.
        contained: Merge -> share of the requests whose answer stands in one of the three best documents.
    """

    index: str
    selection: str
    asked: int
    recall: float
    bytes: float
    ndcg: Mapping[str, float] = field(default_factory=dict)
    contained: Mapping[str, float] = field(default_factory=dict)


class FederatedSearch:
    """The engines of a run's collection, with what they have made public, and the broker's descriptors.

    Args:
        finished: A run of the task, whose model encodes texts.
        snippets: Words of a document that an answer shows.
        as_vector: Send requests to the cosine index as vectors, not as texts.

    Raises:
        ConfigError: The run is of another task, or its collection has no documents.
    """

    def __init__(self, finished: FinishedRun, *, snippets: int = 0, as_vector: bool = False) -> None:
        config = finished.run.config
        if config.task != TASK:
            raise ConfigError(f"run '{finished.run.path}' is of task '{config.task}': promptfed search needs {TASK}")
        self.collection = load_collection(config.data)
        if not self.collection.has_documents:
            raise ConfigError(
                f"data '{config.data}' has grades of engines and no documents, so nothing can be searched: use texts:, "
                "beir:, testbed: or squad:"
            )
        self._model: LanguageModel = finished.method.setup.language_model
        self._kept = KeptStates(self._model)
        self._vectors: dict[str, np.ndarray] = {}
        self._shared = finished.state.shared
        self._prompt = finished.method if isinstance(finished.method, QueryPrompt) else None
        self._queries: dict[str, np.ndarray] = self._vectors if self._prompt is None else {}
        self.as_vector, self.snippets = as_vector, snippets
        self.dealt = _dealt(config, self.collection)
        self._encode([text[:CHARACTERS] for corpus in self.collection.corpora for text in corpus.documents])
        self.engines = [
            Engine(
                corpus.name,
                corpus.documents,
                np.stack([self._vectors[text[:CHARACTERS]] for text in corpus.documents]),
                f"{config.seed}:{corpus.name}",
                snippets,
            )
            for corpus in self.collection.corpora
        ]
        self.selections: dict[str, Callable[[Query], np.ndarray]] = {
            "description": lambda query: centroid(query.vector, self._descriptions),
            "cori": lambda query: cori(words_of(query.text), self._statistics),
            "centroid": lambda query: centroid(query.vector, self._centroids),
        }
        known = descriptors_of(self._shared, len(self.engines))
        if len(known) == len(self.engines):
            learned = torch.stack([known[k] for k in range(len(self.engines))]).double().numpy()
            self.selections["descriptor"] = lambda query: descriptor(query.vector, learned)
        self._calibrations: dict[str, dict[int, tuple[float, float]]] = {}

    # ----------------------------------------------------------------------------------- what owners make public

    @cached_property
    def _statistics(self) -> list[TermStatistics]:
        return [engine.bm25.statistics for engine in self.engines]

    @cached_property
    def _centroids(self) -> np.ndarray:
        return np.stack([engine.cosine.centroid for engine in self.engines])

    @cached_property
    def _descriptions(self) -> np.ndarray:
        """The vectors of what the owners say of their corpora."""
        sentences = [corpus.description or corpus.name for corpus in self.collection.corpora]
        self._encode(sentences)
        return np.stack([self._vectors[text] for text in sentences])

    def calibration(self, index: str) -> Mapping[int, tuple[float, float]]:
        """Return what each owner fits to its lists for the requests that it has judged; two numbers travel."""
        if index not in self._calibrations:
            numbers = sorted({number for judged in self.dealt.train for number in judged})
            self._encode_queries([self.collection.requests[number].text for number in numbers])
            self._calibrations[index] = {k: self._calibrated(index, k) for k in range(len(self.engines))}
        return self._calibrations[index]

    def _calibrated(self, index: str, engine: int) -> tuple[float, float]:
        scores, relevant = [], []
        for number in self.dealt.train[engine]:
            request = self.collection.requests[number]
            for hit in self.ask(self.query(request.text), index, [engine])[engine].hits:
                scores.append(hit.score)
                relevant.append(float(request.relevance.get(engine, {}).get(hit.document, 0) > 0))
        return fit_calibration(np.array(scores), np.array(relevant))

    # ------------------------------------------------------------------------------------------------ asking

    def _encode(self, texts: Sequence[str]) -> None:
        """Add the vectors of texts that come again with every search: they stay on disk."""
        self._remember(self._vectors, texts, lambda items: F.normalize(self._kept.of(items), dim=-1))

    def _encode_queries(self, texts: Sequence[str]) -> None:
        """Add the vectors of requests, of which none stays on disk."""
        if (prompt := self._prompt) is None:
            self._remember(self._vectors, texts, lambda items: F.normalize(self._model.states(items), dim=-1))
        else:
            self._remember(self._queries, texts, lambda items: prompt.vectors(self._shared, items))

    @staticmethod
    def _remember(
        known: dict[str, np.ndarray], texts: Sequence[str], encode: Callable[[Sequence[TextItem]], torch.Tensor]
    ) -> None:
        """Add the vectors of the texts that ``known`` lacks, which are read together."""
        lacking = list(dict.fromkeys(text for text in texts if text not in known))
        if lacking:
            with torch.no_grad():
                vectors = encode([TextItem(text) for text in lacking])
            known |= zip(lacking, vectors.double().cpu().numpy(), strict=True)

    def query(self, text: str) -> Query:
        """Return a request with its vector: behind the run's query prompt, if it has learned one."""
        self._encode_queries([text])
        return Query(text, self._queries[text])

    def ask(self, query: Query, index: str, engines: Sequence[int], count: int = LISTED) -> dict[int, Reply]:
        """Ask some engines; returns engine -> its reply."""
        as_vector = self.as_vector and index != BM25
        return {k: ask(self.engines[k], k, query, index, count, as_vector=as_vector) for k in engines}

    def search(self, text: str, *, index: str, selection: str, merge: str, asked: int) -> tuple[list[int], list[Hit]]:
        """Ask the ``asked`` best engines for a request; returns them, best first, and the merged list."""
        query = self.query(text)
        scores = self.selections[selection](query)
        chosen = best(scores, asked)
        replies = self.ask(query, index, chosen)
        calibration = self.calibration(index) if merge == CALIBRATED else {}
        answers = Answers({k: reply.hits for k, reply in replies.items()}, scores, calibration)
        return chosen, MERGES[merge](answers)

    # ----------------------------------------------------------------------------------------------- judging

    def table(self, asked: int, seed: int = 0) -> list[Row]:
        """Return the figures of every index and selection on the test requests, and of those that know more.

        "random" draws engines, "all engines" asks everybody; "asker's own" and "best engines" know the asker or the
        answer: nobody has them, and they say what selection could reach.
        """
        tests = [self.collection.requests[k] for k in self.dealt.test]
        self._encode_queries([request.text for request in tests])
        queries = [self.query(request.text) for request in tests]
        count = len(self.engines)
        draws = numpy_stream(seed, "random selection").random((len(tests), count))
        rows = []
        for index in INDICES:
            replies = [self.ask(query, index, range(count)) for query in queries]
            orders = {
                "random": draws,
                **{name: np.stack([select(query) for query in queries]) for name, select in self.selections.items()},
                "best engines": np.array([request.grades for request in tests]),
            }
            home = np.stack([np.arange(count) == request.origin for request in tests]).astype(float)
            rows += [
                self._row(index, name, scores, min(asked, count), tests, replies) for name, scores in orders.items()
            ]
            rows.append(self._row(index, "asker's own", home, 1, tests, replies))
            rows.append(self._row(index, "all engines", orders["cori"], count, tests, replies))
        return rows

    def _row(
        self,
        index: str,
        selection: str,
        scores: np.ndarray,
        asked: int,
        tests: Sequence[Request],
        replies: Sequence[Mapping[int, Reply]],
    ) -> Row:
        gains: dict[str, list[float]] = {name: [] for name in MERGES}
        contained: dict[str, list[float]] = {name: [] for name in MERGES}
        recalls, sizes = [], []
        for row, request, all_replies in zip(scores, tests, replies, strict=True):
            chosen = best(row, asked)
            lists = {k: all_replies[k].hits for k in chosen}
            answers = Answers(lists, row, self.calibration(index))
            holders = {k for k, documents in request.relevance.items() if documents}
            recalls.append(len(holders & set(chosen)) / max(1, min(asked, len(holders))))
            sizes.append(sum(all_replies[k].sent + all_replies[k].received for k in chosen))
            every = [grade for documents in request.relevance.values() for grade in documents.values()]
            for name, merge in MERGES.items():
                merged = merge(answers)[:LISTED]
                grades = [request.relevance.get(hit.engine, {}).get(hit.document, 0.0) for hit in merged]
                gains[name].append(ndcg(grades, every, LISTED))
                if request.answer:
                    contained[name].append(float(any(self._holds(hit, request.answer) for hit in merged[:CONTEXT])))
        return Row(
            index,
            selection,
            asked,
            fmean(recalls),
            fmean(sizes),
            {name: fmean(values) for name, values in gains.items()},
            {name: fmean(values) for name, values in contained.items() if values},
        )

    def text(self, hit: Hit) -> str:
        """Return the document of a hit, as its owner would hand it out."""
        return self.collection.corpora[hit.engine].documents[hit.document]

    def _holds(self, hit: Hit, answer: str) -> bool:
        return answer.lower() in self.text(hit).lower()


def _dealt(config: RunConfig, collection: Collection) -> Dealt:
    options = validate(FederatedSearchConfig, config.task_options, "task option")
    return deal(collection, options, config.partition_seed, options.judged)
