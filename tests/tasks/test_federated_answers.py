"""Answers from federated search: what stands before questions, who has which, and what an instruction changes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import PhraseQuestion
from promptfed.tasks import TASKS, federated_answers
from promptfed.tasks.federated_answers import RIGHT
from promptfed.tasks.federated_search import FederatedSearchConfig, deal
from promptfed.tasks.sources.retrieval import load_collection


def config_of(**options):
    return build_config({"task": "federated-answers", "data": "texts:search", **options})


def built(**options):
    return TASKS["federated-answers"].build(config_of(task_options=options))


def test_a_client_has_its_own_questions_behind_its_own_documents() -> None:
    task, collection = built(shots=3, tests=None), load_collection("texts:search")
    documents = [{" ".join(text.split()[:50]) for text in corpus.documents} for corpus in collection.corpora]
    tested = {item.text for item in task.base_test.items}
    for data in task.clients:
        assert len(data.train) == 3
        assert set(data.train.labels.tolist()) == {RIGHT}
        for item in (*data.train.items, *data.val.items):
            assert isinstance(item, PhraseQuestion)
            lines = item.text.split("\n")
            assert lines[-1].startswith("Question: ")
            assert {line.removeprefix("Text: ") for line in lines[:-1]} <= documents[data.client]
        assert not {item.text for item in data.train.items} & tested
        assert len(data.test) == 5
    assert len(task.base_test) == 40


def test_what_stands_before_test_questions_is_an_option() -> None:
    each = {context: built(context=context, tests=16) for context in ("search", "gold", "description", "none")}
    questions = {context: [i.text.split("\n")[-1] for i in task.base_test.items] for context, task in each.items()}
    assert len(set(map(tuple, questions.values()))) == 1
    assert all(len(data.test) == 2 for data in each["gold"].clients)

    def share(context: str) -> float:
        items = each[context].base_test.items
        return sum(PhraseQuestion("", answer=item.answer).is_answered(item.text) for item in items) / len(items)

    assert share("gold") > 0.9
    assert share("gold") > share("search") > share("description")
    assert all("\n" not in item.text for item in each["none"].base_test.items)
    assert "the answer stands in their documents" in each["search"].notes[-1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task_options": {"fold": 9}}, "fold 9 is none of 0 to 4"),
        ({"clients": 3}, "the data have 8 engines"),
        ({"task_options": {"context": "web"}}, "context"),
    ],
)
def test_wrong_options_are_refused(options, says) -> None:
    with pytest.raises(ConfigError, match=says):
        TASKS["federated-answers"].build(config_of(**options))


def test_questions_without_answers_take_no_place(monkeypatch) -> None:
    """As in SQuAD 2.0: half of the questions of each engine have no answer."""
    collection = load_collection("texts:search")
    requests = tuple(replace(r, answer=r.answer if k % 2 else "") for k, r in enumerate(collection.requests))
    monkeypatch.setattr(federated_answers, "load_collection", lambda data: replace(collection, requests=requests))
    task = built(shots=3, tests=16)
    assert [len(data.train) for data in task.clients] == [3] * 8
    assert len(task.base_test) == sum(len(data.test) for data in task.clients) == 16
    splits = [task.base_test, *(split for data in task.clients for split in (data.train, data.val, data.test))]
    assert all(item.answer for split in splits for item in split.items)


def test_data_whose_training_questions_have_no_answers_are_refused_with_what_helps(monkeypatch) -> None:
    collection = load_collection("texts:search")
    tested = set(deal(collection, FederatedSearchConfig(val_fraction=0.05), 0).test)
    requests = tuple(replace(r, answer=r.answer if k in tested else "") for k, r in enumerate(collection.requests))
    monkeypatch.setattr(federated_answers, "load_collection", lambda data: replace(collection, requests=requests))
    with pytest.raises(DataError, match=r"raise task\.folds, or use data with answers"):
        built()
    requests = tuple(replace(r, answer="" if k in tested else r.answer) for k, r in enumerate(collection.requests))
    with pytest.raises(DataError, match=r"no test questions with answers: choose another task\.fold"):
        built()


def test_data_without_answers_are_refused(tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "qrels").mkdir(parents=True)
        (tmp_path / name / "corpus.jsonl").write_text(json.dumps({"_id": "d", "title": "", "text": f"about {name}"}))
        (tmp_path / name / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": f"what is {name}"}))
        (tmp_path / name / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    with pytest.raises(DataError, match="no documents with answers"):
        TASKS["federated-answers"].build(config_of(data=f"beir:{tmp_path / 'one'},{tmp_path / 'two'}"))
