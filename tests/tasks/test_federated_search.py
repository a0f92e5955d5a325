"""Federated search: who knows which grades, what is refused, and what descriptors reach on the bundled corpora."""

from __future__ import annotations

import math
import os
from pathlib import Path
from statistics import fmean

import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.evaluation import evaluate
from promptfed.experiment import Experiment
from promptfed.resolve import complete
from promptfed.retrieval.collection import Collection, Corpus, Request
from promptfed.tasks import TASKS
from promptfed.tasks.federated_search import FederatedSearchConfig, deal
from promptfed.tasks.sources.retrieval import checked, load_collection

FEB4RAG = Path(os.environ.get("PROMPTFED_DATA", "../shared/data")) / "feb4rag"


def config_of(**options):
    return build_config({"task": "federated-search", "data": "texts:search", **options})


@pytest.fixture(scope="module")
def task():
    return TASKS["federated-search"].build(config_of())


def test_a_client_is_an_engine_that_knows_its_own_grades_alone(task):
    assert task.domains == task.base_classes
    assert len(task.clients) == 8
    for data in task.clients:
        assert data.classes == (data.client,)
        for item in data.train.items:
            known = [k for k, grade in enumerate(item.grades) if not math.isnan(grade)]
            assert known == [data.client]
        assert set(data.train.labels.tolist()) == {data.client}


def test_tests_are_judged_on_all_engines_and_nobody_trains_on_them(task):
    tested = {item.text for item in task.base_test.items}
    assert len(tested) == 40
    assert not any(math.isnan(grade) for item in task.base_test.items for grade in item.grades)
    for data in task.clients:
        trained, chosen = ({item.text for item in split.items} for split in (data.train, data.val))
        assert not trained & tested
        assert not trained & chosen
        assert not chosen & tested
        assert len(data.val) == 2
        assert {item.text for item in data.test.items} <= tested


def test_folds_share_out_the_requests_of_every_engine():
    collection = load_collection("texts:search")
    folds = [deal(collection, FederatedSearchConfig(fold=fold), 0).test for fold in range(5)]
    assert sorted(k for fold in folds for k in fold) == list(range(200))
    for fold in folds:
        origins = [collection.requests[k].origin for k in fold]
        assert [origins.count(engine) for engine in range(8)] == [5] * 8


def test_judged_requests_are_limited_and_drawn_for_each_engine():
    task = TASKS["federated-search"].build(config_of(task_options={"judged": 20}))
    assert [len(data.train) for data in task.clients] == [20] * 8
    texts = [{item.text for item in data.train.items} for data in task.clients]
    assert texts[0] != texts[1]


def test_defaults_and_the_note_on_rankings_without_a_model(task):
    config = complete(build_config({"task": "federated-search"}))
    assert (config.data, config.method, config.rounds, config.backbone) == (
        "texts:search",
        "descriptor",
        1,
        "lm:minilm",
    )
    assert (config.measures, config.selection) == (("ndcg:10", "np:1", "np:3"), "ndcg:10")
    assert Experiment.build(config).baselines == ("zero_shot",)
    (note,) = task.notes
    assert "engines in random order" in note
    assert "TF-IDF of request and description" in note


def test_methods_that_learn_from_labels_are_refused():
    with pytest.raises(ConfigError, match="method 'fedprompt' does not go with task 'federated-search', which takes: "):
        complete(config_of(method="fedprompt"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": "wiki:all"}, "collection for federated search 'wiki:all'"),
        ({"data": "beir:"}, "lacks its path: write beir:DIR,DIR,..."),
        ({"data": "texts:requests"}, "bundled corpora 'requests'"),
        ({"clients": 3}, "clients=3, but the data have 8 engines"),
        ({"task_options": {"fold": 5}}, "fold 5 is none of 0 to 4"),
        ({"task_options": {"descriptions": {"tailor": "sews"}}}, "'descriptions' names 'tailor'"),
        ({"task_options": {"descriptions": {"clinic": "same", "museum": "Same"}}}, "are both called"),
    ],
)
def test_bad_options_are_one_line(options, said):
    with pytest.raises(ConfigError) as caught:
        TASKS["federated-search"].build(config_of(**options))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def collection(*corpora, requests=4):
    grades = tuple(float(k == 0) for k in range(len(corpora)))
    return Collection("c", corpora, tuple(Request(f"r {k}", grades, 0) for k in range(requests)))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (collection(Corpus("a", "", ("x",))), "needs at least two"),
        (collection(Corpus("a", "", ("x",)), Corpus("b", "")), "corpus 'b' of data 'c' has no documents"),
        (collection(Corpus("a", "", ("x",)), Corpus("A", "", ("y",))), "engine"),
        (collection(Corpus("a", "", ("x",)), Corpus("b", "", ("y",)), requests=1), "has 1 requests that an engine"),
    ],
)
def test_bad_collections_are_one_line(bad, said):
    with pytest.raises(DataError, match=said):
        checked(bad)


def test_too_few_requests_for_the_folds():
    small = checked(collection(Corpus("a", "", ("x",)), Corpus("b", "", ("y",)), requests=3))
    with pytest.raises(DataError, match=r"too few for 5 folds: lower task\.folds"):
        deal(small, FederatedSearchConfig(fold=4), 0)


def figures(**options):
    """Means over the five folds: method -> (nDCG@10, nP@1)."""
    found, before = {"zero_shot": [], "descriptor": []}, None
    for fold in range(5):
        before = Experiment.build(config_of(task_options={"fold": fold}, **options), like=before)
        for stage, rows in found.items():
            federation = before.federation(stage)
            state, _ = federation.run_round(federation.start())
            prompts = federation.prompts(state)
            measures = evaluate(federation.method, prompts, before.task, before.measures).figures.measures
            rows.append((measures["ndcg:10"]["base"], measures["np:1"]["base"]))
    return {stage: tuple(map(fmean, zip(*rows, strict=True))) for stage, rows in found.items()}


@pytest.mark.slow
def test_descriptors_find_the_bundled_corpora_where_descriptions_do_not():
    found = figures()
    assert found["zero_shot"][0] < 0.66
    assert found["descriptor"][0] > 0.87
    assert found["descriptor"][1] > 0.75


@pytest.fixture(scope="module")
def on_feb4rag():
    if not FEB4RAG.is_dir():
        pytest.skip("PROMPTFED_DATA has no feb4rag")
    return figures(data=f"feb4rag:{FEB4RAG}")


@pytest.mark.slow
def test_descriptors_on_feb4rag(on_feb4rag):
    assert on_feb4rag["descriptor"][0] >= 0.87
    assert on_feb4rag["descriptor"][1] >= 0.78
    best_description = on_feb4rag["zero_shot"][0]
    assert best_description == pytest.approx(0.682, abs=0.005), "the best of three prompts; .641 elsewhere, without one"
