from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.base import build_aggregator
from promptfed.build_method import build_method
from promptfed.evaluation import accuracy, evaluate, has_choice, judge, mean_local_accuracy, own_examples, validate
from promptfed.examples.base import TextItem
from promptfed.measures.base import build_measures
from promptfed.method import METHODS
from promptfed.methods.fedtpg import FedTPG, FedTPGConfig
from promptfed.methods.local_only import LocalOnly
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.methods.promptfolio import PromptFolio, PromptFolioConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextConfig
from promptfed.scoring import Examples, Reader, alike, right_among_own
from promptfed.scoring_job import ScoringJob
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt, Split

WHITE_BOX = sorted(
    n
    for n, kind in ((name, METHODS[name]) for name in METHODS)
    if kind.access != "black box"
    and kind.model_kind == "dual encoder"
    and not kind.only_texts
    and not kind.only_questions
)
MEASURES = build_measures(["nll", "ece", "macro_f1"])


@pytest.fixture
def many(toy_task, make_split):
    """Seven clients who hold overlapping images and different classes; some hold one class, some no test image."""
    pool = make_split(500, [0, 1, 2, 3] * 5)
    clients = []
    for client, classes in enumerate([(0, 1), (0, 1), (1, 2, 3), (2,), (0, 3), (0, 1, 2, 3), (1, 2)]):
        rows = [row for row, label in enumerate(pool.labels.tolist()) if label in classes][client % 3 :: 2]
        own = Split(tuple(pool.items[row] for row in rows), pool.labels[rows])
        test = own if client != 4 else Split((), own.labels[:0])
        clients.append(replace(toy_task.clients[0], client=client, classes=classes, val=own, test=test))
    return replace(toy_task, clients=tuple(clients))


def personal_prompts(method, task):
    """Clients 0, 3 and 6 deploy one prompt as three objects, the others one each."""
    start = method.init_shared(), method.init_personal(0)
    factors = [1.0, 5.0, -3.0, 1.0, 9.0, 20.0, 1.0]
    return {
        data.client: ClientPrompt(factor * start[0], factor * start[1])
        for data, factor in zip(task.clients, factors, strict=True)
    }


@pytest.mark.parametrize("kind", [LocalOnly, FedTPG])
def test_figures_are_those_of_asking_client_by_client(setup, many, make_split, kind):
    """Also for a method whose context depends on all names that there are to choose from."""
    method = kind(FedTPGConfig(heads=1) if kind is FedTPG else ContextConfig(), setup)
    task = replace(many, domain_tests={"sketch": make_split(7, [0, 1, 2, 3])})
    prompts = personal_prompts(method, task)
    found = evaluate(method, prompts, task, MEASURES)
    tested = [data for data in task.clients if len(data.test)]
    local = {
        data.client: judge(method, prompts[data.client], task.base_classes, data.test, data.classes, MEASURES)
        for data in tested
        if has_choice(data)
    }
    assert {c: score.local for c, score in found.local.items() if score.local is not None} == {
        client: judgement.accuracy for client, judgement in local.items()
    }
    assert [score.local_all for score in found.local.values()] == [
        accuracy(method, prompts[data.client], task.base_classes, data.test) for data in tested
    ]
    for part, names, split in (
        ("base", task.base_classes, task.base_test),
        ("new", task.new_classes, task.new_test),
    ):
        each = [judge(method, prompt, names, split, None, MEASURES) for prompt in prompts.values()]
        assert getattr(found.figures, part) == pytest.approx(fmean(j.accuracy for j in each), abs=1e-12)
        for name, measure in MEASURES.items():
            by_hand = fmean(measure.combine(judgement.totals[name]) for judgement in each)
            assert found.figures.measures[name][part] == pytest.approx(by_hand, abs=1e-5)
    for name, measure in MEASURES.items():
        by_hand = fmean(measure.combine(judgement.totals[name]) for judgement in local.values())
        assert found.figures.measures[name]["local"] == pytest.approx(by_hand, abs=1e-5)
    sketch = [accuracy(method, p, task.base_classes, task.domain_tests["sketch"]) for p in prompts.values()]
    assert found.figures.domains["sketch"] == pytest.approx(fmean(sketch), abs=1e-12)


def test_validation_is_that_of_asking_client_by_client(setup, many):
    method = LocalOnly(ContextConfig(), setup)
    prompts = personal_prompts(method, many)
    each = {
        data.client: accuracy(method, prompts[data.client], many.base_classes, data.val, data.classes)
        for data in many.clients
        if has_choice(data)
    }
    assert mean_local_accuracy(method, prompts, many, "val") == fmean(each.values())
    assert mean_local_accuracy(method, prompts, many, "val", own_examples(many, "val")) == fmean(each.values())
    base = [accuracy(method, prompt, many.base_classes, own_examples(many, "val").split) for prompt in prompts.values()]
    assert validate(method, prompts, many).base == pytest.approx(fmean(base), abs=1e-12)


def test_equal_prompts_are_encoded_once_and_own_classes_not_again(setup, many):
    method = LocalOnly(ContextConfig(), setup)
    prompts = personal_prompts(method, many)
    assert alike(prompts, prompts) == [[0, 3, 6], [1], [2], [4], [5]]
    evaluate(method, prompts, many)
    assert setup.backbone.calls.texts == 5 * (len(many.base_classes) + len(many.new_classes))
    before = setup.backbone.calls.texts
    mean_local_accuracy(method, prompts, many, "val")
    own = len({0, 1, 2}) + len({0, 1}) + len({1, 2, 3}) + len({0, 3}) + len({0, 1, 2, 3})
    assert setup.backbone.calls.texts - before == own, "client 3 has one class and does not count"


def test_a_text_that_many_prompts_have_is_encoded_once(setup, many):
    """PromptFolio's shared context, and that of the mixture in feature space."""
    method = PromptFolio(PromptFolioConfig(), setup)
    shared = method.init_shared()
    own = [PromptState({"local": k * shared["ctx"], "theta": torch.tensor([0.5])}) for k in (2.0, 5.0)]
    jobs = [
        ScoringJob(ClientPrompt(PromptState(shared), personal, alpha), many.base_classes, many.base_test)
        for personal in own
        for alpha in (0.3, 1.0)
    ]
    found = list(method.scores(jobs))
    assert setup.backbone.calls.texts == 3 * len(many.base_classes)
    for job, scores in zip(jobs, found, strict=True):
        torch.testing.assert_close(scores, method.client_logits(job.prompt, job.classes, job.split))


@pytest.mark.parametrize("name", WHITE_BOX)
def test_methods_say_whether_other_classes_matter(name, clip_setup, toy_task):
    """Of every method: scores of many jobs are those of each, and those of some classes are columns of all's."""
    setup = clip_setup.agreeing(domains=("a", "b", "c"))
    known = METHODS[name].Config.model_fields
    small = {"local_epochs": 1, "n_ctx": 4, "heads": 1, "prompt_depth": 1, "n_private": 1}
    method = build_method(name, {key: value for key, value in small.items() if key in known}, setup)
    server = method.server_side(build_aggregator((METHODS[name].aggregators or ("mean",))[0], {}))
    shared = method.init_shared()
    prompts = []
    for data in (toy_task.clients[2], toy_task.clients[1]):
        sent = server.broadcast(shared, server.init(shared), data.client)
        _, personal = method.train(Broadcast(1, sent), data, method.init_personal(data.client))
        prompts.append(ClientPrompt(sent, personal))
    rows = torch.tensor([0, 3, 7, 12])
    jobs = [
        ScoringJob(prompt, names, toy_task.base_test, rows)
        for prompt in prompts
        for names in (toy_task.base_classes, toy_task.base_classes[1:3])
    ]
    found = list(method.scores(jobs))
    for job, scores in zip(jobs, found, strict=True):
        each = method.client_logits(job.prompt, job.classes, job.examples())
        torch.testing.assert_close(scores, each, rtol=1e-4, atol=1e-4)
    assert method.scores_apart == (name not in ("fedtpg", "fedmvp"))
    if method.scores_apart:
        for every, some in (found[:2], found[2:]):
            torch.testing.assert_close(every[:, 1:3], some, rtol=1e-4, atol=1e-4)


def test_who_changes_how_a_method_predicts_says_anew_that_classes_are_apart(setup):
    class Joint(PromptFL):
        def joint_features(self, features, shared, personal, classes):
            return F.normalize(features[0] - features[0].mean(0), dim=-1)

    class Renamed(PromptFL):
        name = "Renamed"

    assert not Joint(PromptFLConfig(), setup).scores_apart
    assert Renamed(PromptFLConfig(), setup).scores_apart


def test_the_best_among_own_classes_by_hand():
    """Three clients on four images; a row of NaN is no answer, and a tie goes to the first class."""
    labels = torch.tensor([0, 2, 3, 1])
    items = tuple(TextItem(f"example {k}") for k in range(len(labels)))
    own = {c: Split(tuple(items[k] for k in rows), labels[rows]) for c, rows in ((0, [0, 3]), (1, [1, 2]), (2, [2, 2]))}
    examples = Examples.of((), own)
    order = [items.index(item) for item in examples.split.items]
    scores = torch.tensor([[1.0, 1, 9, 0], [9, 0, 1, 2], [torch.nan] * 4, [5, 1, 0, 9]])[order]
    reader = Reader(_Apart(), ("a", "b", "c", "d"), examples)
    among = {0: (0, 1), 1: (2, 3), 2: (0, 3)}
    [reading] = reader.own(ClientPrompt(NO_PROMPT), [0, 1, 2], among)
    assert reading.job.classes == ("a", "b", "c", "d")
    right = right_among_own(scores, reading, among, own)
    assert {client: flags.tolist() for client, flags in right.items()} == {0: [1, 0], 1: [0, 0], 2: [0, 0]}


class _Apart:
    scores_apart = True
    reads_texts_only = True


def test_large_groups_are_scored_part_by_part(setup, many, monkeypatch):
    method = PromptFL(PromptFLConfig(), setup)
    prompts = dict.fromkeys(range(len(many.clients)), ClientPrompt(method.init_shared()))
    whole, val = evaluate(method, prompts, many), mean_local_accuracy(method, prompts, many, "val")
    monkeypatch.setattr("promptfed.scoring.MOST_SCORES", 40)
    assert evaluate(method, prompts, many) == whole
    assert mean_local_accuracy(method, prompts, many, "val") == val
