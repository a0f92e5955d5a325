"""FedBPT: the server's step by hand, and each fault of the released code (docs/methods.md) as a test."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.blackbox.search.cma_es import CmaEs
from promptfed.build_method import build_method
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods.zero_shot import ZeroShot
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Update

OPTIONS = {"dim": 6, "n_tokens": 2, "queries": 80, "batch_size": 4}


@pytest.fixture
def make(black_setup):
    def build(setup=black_setup, **options):
        return build_method("fedbpt", {**OPTIONS, **options}, setup)

    return build


def federation_of(method, task, clients=None, dropout=0.0):
    clients = [data.client for data in task.clients] if clients is None else clients
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, task, dropout)), clients)


def run(method, task, rounds=3, **options):
    federation = federation_of(method, task, **options)
    state = federation.start()
    for _ in range(rounds):
        state, _ = federation.run_round(state)
    return federation, state


def replied(client, mean, fitness, spread=1.0, samples=4):
    sent = {"mean": torch.tensor(mean), "fitness": torch.tensor([fitness]), "spread": torch.tensor([spread])}
    return Update(client, PromptState(sent), samples, 0.5, 0.5)


def start_of(dim, sigma=1.0):
    return PromptState({"mean": torch.zeros(dim), "sigma": torch.tensor([sigma]), "deviations": torch.ones(dim)})


def test_the_servers_mean_is_the_weighted_mean_worked_out_by_hand(make):
    server = make(dim=2).server_side(Mean(Mean.Config()))
    shared = start_of(2)
    updates = [replied(0, [3.0, 0.0], 0.5), replied(1, [0.0, 3.0], 0.9)]
    found, _ = server.apply(shared, updates, server.init(shared))
    best, worst = math.log(3) - math.log(1), math.log(3) - math.log(2)
    assert torch.allclose(found["mean"], torch.tensor([3 * best, 3 * worst]) / (best + worst))


def test_twice_the_samples_are_twice_the_weight_among_equals(make):
    server = make(dim=2).server_side(Mean(Mean.Config()))
    shared = start_of(2)
    updates = [replied(0, [3.0, 0.0], 0.7, samples=8), replied(1, [0.0, 3.0], 0.7, samples=4)]
    found, _ = server.apply(shared, updates, server.init(shared))
    assert torch.allclose(found["mean"], torch.tensor([2.0, 1.0]))


def test_the_mean_alone_is_a_population_of_one(make):
    """Sigma by hand: one point, so mueff = 1, and the path is sqrt(c (2 - c)) times the step over sigma."""
    method = make(dim=2, merge="mean")
    server, shared = method.server_side(Mean(Mean.Config())), start_of(2)
    means = [[0.3, 0.0], [0.0, 0.6]]
    updates = [Update(k, PromptState({"mean": torch.tensor(mean)}), 4, 0.5, 0.5) for k, mean in enumerate(means)]
    found, memory = server.apply(shared, updates, server.init(shared))
    assert torch.allclose(found["mean"], torch.tensor([0.15, 0.3]))
    c = 3 / 8  # (1 + 2) / (2 + 1 + 5)
    path = math.sqrt(c * (2 - c)) * torch.tensor([0.15, 0.3])
    assert torch.allclose(memory["path_sigma"], path, atol=1e-6)
    expected = math.sqrt(2) * (1 - 1 / 8 + 1 / 84)
    assert found["sigma"].item() == pytest.approx(math.exp(c / (1 + c) * (path.norm().item() / expected - 1)), rel=1e-5)
    one = Update(0, PromptState({"mean": found["mean"]}), 1, 0.5, 0.5)
    assert server.apply(shared, [one], server.init(shared))[0] == found, "the mean is all that it needs"


def test_the_mean_alone_asks_no_fitness(make, text_task):
    asked = {}
    for merge in ("ranks", "mean"):
        method = make(merge=merge)
        update, _ = method.train(Broadcast(1, method.init_shared()), text_task.clients[0], NO_PROMPT)
        asked[merge] = set(update.shared), method.step_queries(text_task.clients[0])
    assert asked == {"ranks": ({"mean", "fitness", "spread"}, 28), "mean": ({"mean"}, 20)}


def test_the_order_of_clients_does_not_matter(make):
    server = make().server_side(Mean(Mean.Config()))
    shared, draw = start_of(6), np.random.default_rng(0)
    updates = [
        replied(k, draw.normal(size=6).astype("f4").tolist(), float(draw.random()), samples=k + 1) for k in range(5)
    ]
    one, other = (server.apply(shared, some, server.init(shared)) for some in (updates, updates[::-1]))
    assert one == other


def test_the_floor_of_the_step_size_holds_and_sigma_never_grows(make):
    server = make(sigma_floor=0.5).server_side(Mean(Mean.Config()))
    shared, memory = start_of(6), server.init(start_of(6))
    sigmas = []
    for _ in range(60):  # nobody moves: the paths shrink, and with them sigma
        shared, memory = server.apply(shared, [replied(k, shared["mean"].tolist(), 0.5) for k in range(3)], memory)
        sigmas.append(shared["sigma"].item())
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[-1] == pytest.approx(0.5)
    far = [replied(k, [50.0] * 6, 0.5) for k in range(3)]
    grown, _ = server.apply(shared, far, memory)
    assert grown["sigma"].item() <= shared["sigma"].item() + 1e-6


def test_no_two_clients_and_no_two_rounds_draw_alike(make, text_task):
    method = make()
    shared = method.init_shared()
    first = text_task.clients[0]
    means = [
        method.train(Broadcast(round, shared), replace(first, client=client), NO_PROMPT)[0].shared["mean"]
        for round in (1, 2)
        for client in (0, 1, 2)
    ]
    assert len({tuple(mean.tolist()) for mean in means}) == 6


def test_an_easy_client_does_not_outrank_one_that_gained_more(make, text_task, text_split):
    """Raw losses rank by the difficulty of the data; relative ones ask what was gained over the received prompt."""
    easy = replace(text_task.clients[0], train=text_split(*["hot: fire fire fire x", "cold: ice ice ice y"] * 2))
    hard = replace(text_task.clients[1], train=text_split(*["hot: ice a", "hot: the b", "hot: ice c", "cold: ice d"]))
    found = {}
    for kind in ("raw", "relative"):
        method = make(fitness=kind, queries=400)
        start = Broadcast(1, method.init_shared())
        found[kind] = [method.train(start, data, NO_PROMPT)[0].shared["fitness"].item() for data in (easy, hard)]
    assert found["raw"][0] < found["raw"][1]
    assert found["relative"][1] < found["relative"][0]
    assert found["relative"][1] < 1


@pytest.mark.parametrize("clients", [[0], [0, 1]])
def test_one_and_two_client_federations_run(make, text_task, clients):
    _, state = run(make(), text_task, clients=clients)
    assert state.round == 3
    assert state.shared.is_finite()


def test_drop_outs_cost_their_own_update_and_no_more(make, text_task):
    federation, state = run(make(), text_task, rounds=4, dropout=0.5)
    assert state.round == 4
    assert federation.prompt(state, 0).shared.is_finite()


def test_it_finds_a_warmer_prompt_and_two_runs_find_the_same(make, text_task):
    federation, state = run(make(queries=200), text_task)
    again = run(make(queries=200), text_task)[1]
    assert again.shared == state.shared
    prompt = federation.method.candidate(state.shared, NO_PROMPT)
    start = federation.method.candidate(federation.method.init_shared(), NO_PROMPT)
    assert prompt.soft.mean() > start.soft.mean() + 0.2, "the toy's texts are 0.7 too cold"


def test_a_client_stays_within_its_allowance(make, text_task, oracle):
    method = make()
    before = oracle.usage()
    method.train(Broadcast(1, method.init_shared()), text_task.clients[0], NO_PROMPT)
    used = (oracle.usage() - before).oracle_queries
    assert used == 3 * 5 * 4 + 2 * 4, "three generations, then found and received prompt"
    assert used <= OPTIONS["queries"]


def test_vectors_travel_and_at_dim_500_they_are_small(make):
    method = make(dim=500, n_tokens=2)
    sent = method.server_side(Mean(Mean.Config())).broadcast(method.init_shared(), NO_PROMPT, 0)
    assert set(sent) == {"mean", "sigma", "deviations"}
    up = PromptState({name: torch.zeros([n or 1 for n in shape]) for name, shape in method.uploads(0, sent).items()})
    assert sent.nbytes < 4400
    assert up.nbytes < 2400
    assert sent.nbytes + up.nbytes < 8192


def test_full_covariance_is_learned_and_sent(make, text_task):
    _, state = run(make(covariance="full"), text_task)
    matrix = state.shared["covariance"]
    assert matrix.shape == (6, 6)
    assert torch.allclose(matrix, matrix.T)
    assert not torch.equal(matrix, torch.eye(6))
    assert (torch.linalg.eigvalsh(matrix) > 0).all()


def test_perturbation_costs_twice_and_leaves_the_frame_alone(make, text_task, oracle, backend):
    method = make(perturb=1.0, queries=160)
    before = oracle.usage()
    update, _ = method.train(Broadcast(1, method.init_shared()), text_task.clients[0], NO_PROMPT)
    assert (oracle.usage() - before).oracle_queries == 2 * (3 * 5 * 4 + 2 * 4)
    assert update.shared.is_finite()


def test_only_texts_can_be_perturbed(make, toy_task):
    method = make(perturb=0.5)
    with pytest.raises(ConfigError, match="perturb=0"):
        method.train(Broadcast(1, method.init_shared()), toy_task.clients[0], NO_PROMPT)


def test_training_looks_at_training_examples_only(make, text_task, backend):
    method = make()
    data = text_task.clients[0]
    backend.asked.clear()
    method.train(Broadcast(1, method.init_shared()), data, NO_PROMPT)
    assert {query.item for query in backend.asked} <= set(data.train.items)


def test_zero_shot_on_a_black_box_takes_the_best_prompt(black_setup, text_task):
    method = ZeroShot(ZeroShot.Config(), black_setup)
    federation = federation_of(method, text_task)
    state, _ = federation.run_round(federation.start())
    assert method.template(state.shared) == "fire"


class Drawn(CmaEs):
    """A search that writes down the step size each generation was drawn with; ``steps``: what it is forced to be."""

    steps: ClassVar[list[float]] = []
    sigmas: ClassVar[list[float]] = []

    generations = 0

    def ask(self, n=None):
        self.sigmas.append(self.sigma)
        return super().ask(n)

    def tell(self, candidates, fitness):
        super().tell(candidates, fitness)
        self.generations += 1

    @property
    def sigma(self):
        return self.steps[self.generations] if self.steps else super().sigma


def spread_of(make, text_task, monkeypatch, steps, queries):
    monkeypatch.setattr(Drawn, "steps", steps)
    monkeypatch.setattr(Drawn, "sigmas", [])
    monkeypatch.setattr("promptfed.blackbox.methods.fedbpt.CmaEs", Drawn)
    method = make(queries=queries, popsize=5, batch_size=4)
    update, _ = method.train(Broadcast(1, method.init_shared()), text_task.clients[0], NO_PROMPT)
    return update.shared["spread"].item() ** 2 * 2, list(Drawn.sigmas)  # two parents of five


@pytest.mark.parametrize(
    ("steps", "squares"),
    [([1.0, 0.9, 0.8, 0.5], 2.45), ([2.0, 1.0, 0.5, 9.0], 5.25), ([0.5, 0.6, 0.7, 0.0], 1.10)],
)
def test_a_generation_counts_by_the_step_size_that_it_was_drawn_with(make, text_task, monkeypatch, steps, squares):
    """Three generations of five prompts on four texts, and two prompts at the end: the fourth sigma drew nothing."""
    found, drawn = spread_of(make, text_task, monkeypatch, steps, queries=3 * 20 + 8)
    assert len(drawn) == 3
    assert found == pytest.approx(squares, rel=1e-6)


def test_the_spread_is_of_the_sigmas_before_each_generation(make, text_task, monkeypatch):
    found, drawn = spread_of(make, text_task, monkeypatch, [], queries=200)
    assert len(drawn) == 9
    assert drawn[0] == 1.0
    assert found == pytest.approx(sum(sigma**2 for sigma in drawn), rel=1e-5)
