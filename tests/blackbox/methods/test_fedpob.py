"""FedPOB: its rounds are LinUCB on everybody's pulls, and its regret is near that of one who holds all data."""

from __future__ import annotations

import hashlib
import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.blackbox.methods.fedpob import TAG, FedPOB, FedPOBConfig
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.search.linear_bandit import LinearBandit, unpacked
from promptfed.config import RunConfig
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError, TrainingError
from promptfed.examples.base import TextItem
from promptfed.experiment import Experiment
from promptfed.federation import Federation
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve
from promptfed.scores import predicted
from promptfed.types import NO_PROMPT, Broadcast, ClientData, FederatedTask, Split, Update
from promptfed.usage import Usage

PROMPTS = ("", "fire", "ice", "lava the", "mild")
TOY = {"prompts": PROMPTS, "embedder": "hashing", "dim": 4, "batch_size": 1, "loss": "cross_entropy", "spread": False}


def make(setup, **options):
    return FedPOB(FedPOBConfig(**{**TOY, **options}), setup)


def federation(method, task, clients=(0, 1, 2), rule="uniform", **options):
    engine = LocalEngine(ClientWorker(method, task))
    return Federation(method, build_aggregator(rule, {}), engine, clients, **options)


def naive_linucb(u, pulls, ridge, nu):
    """The next arm by the textbook, with an explicit inverse, after ``pulls`` (arm, reward)."""
    v, b = ridge * np.eye(u.shape[1]), np.zeros(u.shape[1])
    for arm, reward in pulls:
        v += np.outer(u[arm], u[arm])
        b += reward * u[arm]
    inverse = np.linalg.inv(v)
    return int(np.argmax(u @ inverse @ b + nu * np.sqrt(np.einsum("ki,ij,kj->k", u, inverse, u)))), v, b


@pytest.mark.parametrize("participation", [1 / 3, 1.0])
def test_with_d_0_and_one_query_a_round_it_is_linucb_on_the_pulls_of_all(
    black_setup, backend, text_task, participation
):
    """One client a round: the sequential textbook. All: each round's clients pull the arm that it names."""
    method = make(black_setup, threshold=0.0, nu=0.7, ridge=0.5)
    loop = federation(method, text_task, participation=participation)
    state, pulls, places = loop.start(), [], {text: k for k, text in enumerate(PROMPTS)}
    for _ in range(5):
        backend.asked.clear()
        expected, _, _ = naive_linucb(method.features, pulls, 0.5, 0.7)
        state, replies = loop.run_round(state)
        assert {places[query.prompt.text] for query in backend.asked} == {expected}
        assert len(replies) == (1 if participation < 1 else 3)
        assert [reply.usage.oracle_queries for reply in replies] == [1] * len(replies)
        pulls += [(expected, 1 - reply.update.loss) for reply in replies]
        _, v, b = naive_linucb(method.features, pulls, 0.5, 0.7)
        assert unpacked(state.shared["gram"].numpy(), 4) == pytest.approx(v - 0.5 * np.eye(4), abs=1e-5)
        assert state.shared["moment"].numpy() == pytest.approx(b, abs=1e-5)
    assert len({arm for arm, _ in pulls}) > 2


def test_the_reward_of_a_pull_is_the_mean_of_probabilities_or_of_right_answers(black_setup, text_task):
    rows, data = torch.tensor([0, 2]), text_task.clients[0]
    scores = black_setup.oracle.score([Candidate("fire")], [data.train.items[k] for k in rows], black_setup.classes)[0]
    labels = data.train.labels[rows]
    share = scores.softmax(-1).gather(1, labels[:, None]).mean().item()
    assert make(black_setup)._reward(scores, labels) == pytest.approx(share, abs=1e-6)
    right = (predicted(scores) == labels).double().mean().item()
    assert make(black_setup, loss="accuracy")._reward(scores, labels) == pytest.approx(right)


# ------------------------------------------------------------------------------------------------ a planted pool

WORDS = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi", "nu", "pa", "re", "so") for b in ("d", "f", "g", "l", "t")]
PLANTED = {"prompts": tuple(WORDS), "embedder": "hashing", "dim": 8, "batch_size": 1, "loss": "cross_entropy"}


class Planted:
    """An oracle to which the true class has a probability that is linear in the prompt's features, plus noise."""

    kind, abilities = "oracle", frozenset({"text prompts"})

    def __init__(self):
        self.means, self.regret, self.queries = {}, 0.0, 0

    def account(self, **_):
        return nullcontext()

    def usage(self):
        return Usage(oracle_queries=self.queries)

    def score(self, candidates, items, classes):
        scores = torch.zeros(len(candidates), len(items), len(classes))
        for (i, prompt), (j, item) in product(enumerate(candidates), enumerate(items)):
            draw = hashlib.sha256(f"{prompt.text} {item.text}".encode()).digest()
            p = self.means[prompt.text] + 0.5 * (int.from_bytes(draw[:4], "big") / 2**32 - 0.5)
            self.regret += max(self.means.values()) - self.means[prompt.text]
            self.queries += 1
            scores[i, j] = torch.tensor([math.log(p if name == item.text.split()[0] else 1 - p) for name in classes])
        return scores


def planted_regrets(black_setup, seed, threshold, pulls=100, clients=10):
    """Regret of ``pulls`` of each client: federated, pooled and each for itself; and the prompt that is deployed."""
    splits = [
        Split(
            tuple(TextItem(f"{('cold', 'hot')[k % 2]} {seed} {client} {k}", "line") for k in range(pulls)),
            torch.tensor([k % 2 for k in range(pulls)]),
        )
        for client in range(clients)
    ]
    nothing = Split((), torch.zeros(0, dtype=torch.int64))
    data = [ClientData(k, f"{k}", (0, 1), split, split, split) for k, split in enumerate(splits)]
    items = tuple(item for split in splits for item in split.items)
    whole = replace(data[0], train=Split(items, torch.cat([split.labels for split in splits])))

    def run(members, numbers, queries, threshold):
        oracle = Planted()
        options = {**PLANTED, "queries": queries, "threshold": threshold, "spread": len(numbers) > 1}
        method = FedPOB(FedPOBConfig(**options), replace(black_setup, model=oracle))
        value = method.features @ np.random.default_rng(seed).normal(size=method.dim)
        value = 0.3 + 0.4 * (value - value.min()) / (value.max() - value.min())
        oracle.means.update(zip(WORDS, value.tolist(), strict=True))
        task = FederatedTask("p", ("cold", "hot"), (), tuple(members), nothing, nothing, ())
        loop = federation(method, task, numbers)
        state = loop.start()
        while oracle.queries < len(numbers) * pulls * (clients if members is not data else 1):
            state, _ = loop.run_round(state)
        return oracle.regret, value.max() - oracle.means[method.candidate(state.shared, NO_PROMPT).text]

    federated, gap = run(data, range(clients), 10, threshold)
    pooled, _ = run([whole], [0], pulls * clients, 1e9)
    alone = sum(run(data, [client], pulls, 1e9)[0] for client in range(clients))
    return federated, pooled, alone, gap


@pytest.mark.slow
def test_regret_on_a_planted_pool_is_near_that_of_pooled_data_and_far_below_that_of_clients_alone(black_setup):
    """Over three seeds the means are 1.23 of the pooled one's and 0.22 of the lone ones'."""
    federated, pooled, alone, gap = planted_regrets(black_setup, 0, 0.0)
    assert federated <= 1.3 * pooled
    assert federated <= 0.5 * alone
    assert gap <= 0.01


# ------------------------------------------------------------------------------------------- budget and messages


def test_no_example_is_asked_about_twice_with_one_prompt_and_then_nothing_is_left(black_setup, text_task):
    method = make(black_setup, threshold=1e9, batch_size=3, queries=7)
    loop = federation(method, text_task)
    state, spent = loop.start(), []
    for _ in range(6):
        state, replies = loop.run_round(state)
        spent.append([reply.usage.oracle_queries for reply in replies])
        assert all(queries <= 7 for queries in spent[-1])
    assert [sum(client) for client in zip(*spent, strict=True)] == [4 * len(PROMPTS)] * 3
    assert state.personal[0]["seen"].tolist() == [4] * len(PROMPTS)
    assert (
        black_setup.oracle.usage().oracle_calls == 4 * len(PROMPTS) * 3 - len(PROMPTS) * 2 * 2
    )  # two texts are shared
    assert unpacked(state.shared["gram"].numpy(), 4).trace() == pytest.approx(3 * 2 * len(PROMPTS), rel=1e-5)


def test_clients_of_a_round_begin_at_different_prompts_unless_told_otherwise(black_setup, text_task):
    first = []
    for spread in (True, False):
        method = make(black_setup, threshold=0.0, spread=spread)
        state, _ = federation(method, text_task).run_round(federation(method, text_task).start())
        first.append({int(state.personal[client]["seen"].argmax()) for client in range(3)})
    assert (len(first[0]), len(first[1])) == (3, 1)


def test_a_client_whose_pulls_are_all_that_there_are_expects_no_others(black_setup, text_task, monkeypatch):
    asked = []
    expect = LinearBandit.expect
    monkeypatch.setattr(
        LinearBandit, "expect", lambda bandit, parties: asked.append(parties) or expect(bandit, parties)
    )
    method = make(black_setup, threshold=0.0, spread=True)
    for clients in ((2,), (0, 2)):
        loop = federation(method, text_task, clients)
        state, _ = loop.run_round(loop.start())
        loop.run_round(state)
    assert asked == [2, 0, *[0, 2] * 2]


def test_a_large_d_sends_less_often(black_setup, text_task):
    pulls = []
    for threshold in (0.0, 1.0, 1e9):
        method = make(black_setup, threshold=threshold)
        data = text_task.clients[0]
        _, personal = method.train(Broadcast(1, method.init_shared()), data, method.init_personal(0))
        pulls.append(int(personal["seen"].sum()))
    assert pulls == [1, 2, 20]


def test_a_round_whose_mean_is_all_that_is_known_is_the_same_round(black_setup):
    """The mean of three changes counts three times, or as often as ``per_round`` says."""
    start = make(black_setup).init_shared()
    changes = [PromptState({"gram": torch.full((10,), k), "moment": torch.full((4,), -k)}) for k in (1.0, 2.0, 6.0)]
    updates = [Update(k, change, 1, 0.0, 0.0) for k, change in enumerate(changes)]
    mean = [Update(-1, (1 / 3) * (changes[0] + changes[1] + changes[2]), 1, 0.0, 0.0)]
    for options, sent, total in (({}, updates, 9.0), ({}, mean, 9.0), ({"per_round": 2}, mean, 6.0)):
        server = make(black_setup, **options).server_side(build_aggregator("uniform", {}))
        assert server.needs == "sum"
        merged, _ = server.apply(start, sent, NO_PROMPT)
        assert merged["gram"].tolist() == pytest.approx([total] * 10)
        assert torch.equal(merged[TAG], start[TAG])


def test_a_median_withstands_a_liar(black_setup, text_task):
    method = make(black_setup, threshold=1e9)
    broadcast = Broadcast(1, method.init_shared())
    honest = [method.train(broadcast, data, method.init_personal(0))[0] for data in text_task.clients]
    lie = PromptState({"gram": torch.zeros(10), "moment": torch.from_numpy(1e6 * method.features[2])})
    liar = Update(3, lie, 1, 0.0, 0.0)
    best = {}
    for rule, updates in (("mean", honest), ("uniform", [*honest, liar]), ("median", [*honest, liar])):
        server = method.server_side(build_aggregator(rule, {}))
        shared, _ = server.apply(method.init_shared(), updates, server.init(method.init_shared()))
        best[rule] = method.candidate(shared, NO_PROMPT).text
    assert best["uniform"] == "ice"
    assert best["median"] == best["mean"] != "ice"


def test_a_run_that_goes_on_from_its_bytes_ends_with_the_same_bits(black_setup, text_task):
    method = make(black_setup, spread=True)
    loop = federation(method, text_task)
    state, _ = loop.run_round(loop.start())
    stored = replace(state, shared=PromptState.from_bytes(state.shared.to_bytes()))
    (one, _), (other, _) = (
        loop.run_round(state),
        federation(make(black_setup, spread=True), text_task).run_round(stored),
    )
    assert one.shared == other.shared
    assert one.personal == other.personal


def test_another_pool_is_refused(black_setup, text_task):
    other = make(black_setup, prompts=("", "fire", "snow"))
    with pytest.raises(TrainingError, match="the server's pool of prompts is not the one made here"):
        make(black_setup).train(Broadcast(1, other.init_shared()), text_task.clients[0], other.init_personal(0))


@pytest.mark.parametrize("named", ["file:/etc/passwd", "mine"])
def test_a_file_that_a_run_or_a_bundle_names_is_never_read(black_setup, named):
    with pytest.raises(ConfigError, match=r"is no pool: write 'bundled', a list, or file:PATH"):
        make(black_setup, prompts=named)


@pytest.mark.slow
def test_on_the_bundled_reviews_it_finds_the_best_prompt_with_a_quarter_of_fedlogics_queries():
    """Within a point. MiniLM hardly knows reviews: the best of the twelve is the empty prompt, at 55.4 %."""
    config = RunConfig(task="blackbox-text", data="texts:reviews", method="fedpob")
    built = Experiment.build(resolve(config))
    method, task, oracle = built.method(), built.task, built.setup.oracle
    test = task.base_test
    scores = oracle.score([Candidate(text) for text in method.prompts], test.items, built.setup.classes)
    accuracy = (predicted(scores) == test.labels).double().mean(1)
    fedlogic = len(method.prompts) * sum(len(data.train) for data in task.clients)
    loop = federation(method, task, range(len(task.clients)))
    state, spent, best = loop.start(), 0, accuracy[0]
    while True:
        state, replies = loop.run_round(state)
        spent += sum(reply.usage.oracle_queries for reply in replies)
        if spent > fedlogic / 4:
            break
        best = accuracy[method.prompts.index(method.candidate(state.shared, NO_PROMPT).text)]
    assert best >= accuracy.max() - 0.01
    assert sum(personal["seen"].bool().long() for personal in state.personal.values()).ge(1).all(), "none was left out"
