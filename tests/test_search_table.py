"""Federated search put to work, with an encoder that counts words."""

from __future__ import annotations

import json
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pytest
import torch

from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.methods.query_prompt import QueryPrompt
from promptfed.prompt_state import PromptState
from promptfed.report.search_table import search_table
from promptfed.resolve import complete
from promptfed.retrieval.figures import ndcg
from promptfed.retrieval.index import words_of
from promptfed.retrieval.merging import MERGES
from promptfed.search_table import FederatedSearch

WIDTH = 256


class WordCounts:
    """An encoder whose features are counts of hashed words; ``read`` has the texts that it has read."""

    fingerprint, device, width = "counts of words", torch.device("cpu"), WIDTH

    def __init__(self):
        self.read = []

    def tokens_read(self, item):
        return tuple(map(crc32, map(str.encode, words_of(item.text)))), 0

    def states(self, items):
        self.read += [item.text for item in items]
        rows = torch.zeros(len(items), WIDTH)
        for row, item in zip(rows, items, strict=True):
            for word in words_of(item.text):
                row[crc32(word.encode()) % WIDTH] += 1
        return rows


def finished(state=None, **options):
    config = complete(build_config({"task": "federated-search", "task_options": {"judged": 30}, **options}))
    method = SimpleNamespace(setup=SimpleNamespace(language_model=WordCounts()))
    run = SimpleNamespace(config=config, path="runs/x")
    return SimpleNamespace(run=run, method=method, state=SimpleNamespace(shared=state or PromptState()))


@pytest.fixture(scope="module")
def search():
    descriptors = {f"descriptor/{k}": torch.full((WIDTH + 1,), float(k == 3)) for k in range(8)}
    return FederatedSearch(finished(PromptState(descriptors)))


@pytest.fixture(scope="module")
def rows(search):
    return {(row.index, row.selection): row for row in search.table(3)}


def test_there_is_a_row_for_each_index_and_selection(rows):
    by = ["random", "description", "cori", "centroid", "descriptor", "best engines", "asker's own", "all engines"]
    assert list(rows) == [(index, name) for index in ("bm25", "cosine") for name in by]
    assert {row.asked for row in rows.values()} == {1, 3, 8}
    assert all(set(row.ndcg) == set(MERGES) for row in rows.values())
    assert all(row.ndcg["rrf"] == row.ndcg["round robin"] for row in rows.values())
    for index in ("bm25", "cosine"):
        assert rows[index, "best engines"].recall == rows[index, "all engines"].recall == 1
        assert rows[index, "random"].recall < rows[index, "centroid"].recall
        assert rows[index, "random"].bytes < rows[index, "all engines"].bytes / 2


def test_with_one_encoder_raw_merging_of_all_engines_is_the_pooled_index(search, rows):
    figures = []
    owned = [(k, d) for k, corpus in enumerate(search.collection.corpora) for d in range(len(corpus.documents))]
    for number in search.dealt.test:
        request = search.collection.requests[number]
        query = search.query(request.text)
        pooled = np.concatenate([engine.cosine.scores(query.vector) for engine in search.engines])
        grades = [request.relevance.get(k, {}).get(d, 0.0) for k, d in owned]
        order = np.argsort(-pooled, kind="stable")
        figures.append(ndcg([grades[k] for k in order], grades, 10))
    assert rows["cosine", "all engines"].ndcg["raw"] == pytest.approx(np.mean(figures), abs=0.01)


def test_one_request_goes_to_the_engines_that_are_selected(search):
    chosen, hits = search.search(
        "roses with black spots lose leaves", index="cosine", selection="descriptor", merge="raw", asked=1
    )
    assert chosen == [3]
    assert {hit.engine for hit in hits} == {3}
    assert "Roses with black spots" in search.text(hits[0])


def test_the_table_can_be_shown(rows):
    table = search_table(list(rows.values()))
    assert table.row_count == 16
    assert len(table.columns) == 10


def test_other_runs_are_refused():
    other = finished()
    other.run.config = build_config({"task": "text-classification"})
    with pytest.raises(ConfigError, match="is of task 'text-classification'"):
        FederatedSearch(other)
    assert "descriptor" not in FederatedSearch(finished()).selections


def test_grades_without_documents_are_refused(tmp_path):
    dataset = tmp_path / "dataset"
    for name in ("engines", "queries", "qrels"):
        (dataset / name).mkdir(parents=True)
    (dataset / "engines" / "engines.csv").write_text("name,Description\na,x\nb,y\n")
    (dataset / "queries" / "requests.jsonl").write_text('{"_id": "1", "text": "t"}\n{"_id": "2", "text": "u"}\n')
    (dataset / "queries" / "rid_mapping.tsv").write_text("1\ta\tx\n2\tb\ty\n")
    (dataset / "qrels" / "BEIR-QRELS-RS.txt").write_text("1 0 a 5\n2 0 b 7\n")
    with pytest.raises(ConfigError, match="has grades of engines and no documents"):
        FederatedSearch(finished(data=f"feb4rag:{tmp_path}"))


def test_a_query_prompt_is_read_before_requests_and_not_before_documents():
    """A prompt that turns every request into one vector: all requests then score documents alike."""

    class Prompted(QueryPrompt):
        def __init__(self) -> None:
            self.setup = SimpleNamespace(language_model=WordCounts())

        def vectors(self, tensors, items):
            return tensors["prompt_embeddings"].expand(len(items), WIDTH)

    run = finished(PromptState({"prompt_embeddings": torch.ones(1, WIDTH)}))
    plain, prompted = (
        FederatedSearch(finished()),
        FederatedSearch(SimpleNamespace(**{**vars(run), "method": Prompted()})),
    )
    one, other = (prompted.query(text) for text in ("roses lose leaves", "high tide tomorrow"))
    assert (one.vector == other.vector).all()
    assert one.text == "roses lose leaves", "words are searched as they were asked"
    assert (prompted.engines[0].cosine.centroid == plain.engines[0].cosine.centroid).all()


def beir(folder, documents):
    for name, texts in documents.items():
        (folder / name / "qrels").mkdir(parents=True, exist_ok=True)
        rows = [json.dumps({"_id": f"d{k}", "title": "", "text": text}) for k, text in enumerate(texts)]
        (folder / name / "corpus.jsonl").write_text("\n".join(rows))
        asked = [json.dumps({"_id": f"q{k}", "text": f"what is {text}"}) for k, text in enumerate(texts)]
        (folder / name / "queries.jsonl").write_text("\n".join(asked))
        judged = [f"q{k}\td{k}\t1" for k in range(len(texts))]
        (folder / name / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    return f"beir:{folder}"


def test_documents_are_read_once_and_again_where_they_have_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    documents = {"sea": ["salt water", "high tide", "a lost anchor"], "desert": ["dry sand", "hot wind", "a camel"]}
    asked, reads, hits = "what is salt water", [], []
    for changed in (None, None, "cold wind"):
        if changed:
            documents["desert"][1] = changed
        run = finished(data=beir(tmp_path / "beir", documents), task_options={"folds": 3})
        search = FederatedSearch(run)
        hits.append(search.search(asked, index="cosine", selection="centroid", merge="raw", asked=2)[1])
        reads.append(run.method.setup.language_model.read)
    assert reads[0] == ["dry sand", "hot wind", "a camel", *documents["sea"], asked]
    assert reads[1] == [asked], "requests do not stay on disk"
    assert reads[2] == ["cold wind", asked]
    assert hits[0] == hits[1]
    assert (hits[0][0].engine, hits[0][0].document) == (1, 0)
