"""FedLogic's posteriors against numerical optimisation, and its rounds against sums worked out on paper."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean, Uniform
from promptfed.blackbox.methods.fedlogic import FedLogic, FedLogicConfig, posterior
from promptfed.blackbox.oracles.query import Candidate
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.local_only_wrapper import LocalOnlyWrapper
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Update

PROMPTS = ("", "fire", "ice", "lava the")


def make(setup, **options):
    return FedLogic(FedLogicConfig(**{"prompts": PROMPTS, "queries": 100, "batch_size": 3, **options}), setup)


def federation(method, task, dropout=0.0, clients=(0, 1, 2), aggregator=Mean):
    engine = LocalEngine(ClientWorker(method, task, dropout))
    return Federation(method, aggregator(aggregator.Config()), engine, clients)


def run(method, task, rounds=3, **options):
    loop = federation(method, task, **options)
    state, replies = loop.start(), ()
    for _ in range(rounds):
        state, replies = loop.run_round(state)
    return loop, state, replies


def evidence(setup, task):
    """Log-likelihood ``(clients, prompts)`` of every client's training examples under every prompt, by hand."""
    rows = []
    for data in task.clients:
        scores = setup.oracle.score([Candidate(text) for text in PROMPTS], data.train.items, setup.classes)
        rows.append([-F.cross_entropy(one, data.train.labels, reduction="sum").item() for one in scores])
    return torch.tensor(rows)


def minimised(objective, count):
    """The distribution over ``count`` prompts that minimises ``objective(log q)``."""
    found = minimize(lambda x: objective(log_softmax(x)), np.zeros(count), method="BFGS", options={"gtol": 1e-9})
    return softmax(found.x)


@pytest.mark.parametrize("pull", [0.0, 0.4, 1.0])
def test_the_closed_form_minimises_evidence_and_divergences(pull):
    draw = np.random.default_rng(5)
    ell, prior = draw.normal(0, 2, 6), softmax(draw.normal(0, 1, 6))

    def objective(log_q):
        q = np.exp(log_q)
        to_prior, to_uniform = q @ (log_q - np.log(prior)), q @ (log_q + np.log(6))
        return -q @ ell + pull * to_prior + (1 - pull) * to_uniform

    found = posterior(torch.tensor(ell), torch.tensor(prior), pull).numpy()
    assert found == pytest.approx(minimised(objective, 6), abs=1e-4)
    assert found == pytest.approx(np.exp(ell) * prior**pull / (np.exp(ell) * prior**pull).sum(), rel=1e-5)


@pytest.mark.parametrize("merge", ["mean", "product"])
def test_the_server_s_posterior_minimises_a_weighted_divergence(black_setup, merge):
    draw = np.random.default_rng(1)
    own, samples = softmax(draw.normal(0, 1.5, (3, 4)), axis=1), np.array([1, 5, 2])
    weights = samples / samples.sum()

    def objective(log_pi):
        if merge == "mean":  # sum w KL(q || pi)
            return sum(w * q @ (np.log(q) - log_pi) for w, q in zip(weights, own, strict=True))
        return sum(w * np.exp(log_pi) @ (log_pi - np.log(q)) for w, q in zip(weights, own, strict=True))

    method = make(black_setup, merge=merge, prune=0.0)
    updates = [
        Update(k, PromptState({"posterior": torch.tensor(q).float()}), int(n), 0.0, 0.0)
        for k, (q, n) in enumerate(zip(own, samples, strict=True))
    ]
    merged, _ = method.server_side(Mean(Mean.Config())).apply(method.init_shared(), updates, NO_PROMPT)
    assert merged["posterior"].numpy() == pytest.approx(minimised(objective, 4), abs=1e-4)


def test_rounds_are_em_for_the_mixture_of_prompts(black_setup, text_task):
    ell = evidence(black_setup, text_task)
    method = make(black_setup, prune=0.0)
    loop = federation(method, text_task, aggregator=Uniform)
    state, prior, likelihoods = loop.start(), torch.full((4,), 0.25), []
    for _ in range(4):
        state, _ = loop.run_round(state)
        own = (ell + prior.log()).softmax(1)
        likelihoods.append((ell + prior.log()).logsumexp(1).sum().item())
        prior = own.mean(0)
        assert torch.allclose(state.shared["posterior"], prior, atol=1e-5)
    assert all(after >= before - 1e-6 for before, after in pairwise(likelihoods))


def test_every_example_is_asked_about_once_and_never_beyond_the_allowance(black_setup, text_task):
    method = make(black_setup, queries=9, prune=0.0)
    loop, state, spent = federation(method, text_task), None, []
    state = loop.start()
    for _ in range(4):
        before = black_setup.oracle.usage().oracle_queries
        state, replies = loop.run_round(state)
        spent.append(black_setup.oracle.usage().oracle_queries - before)
    assert spent == [3 * 8, 3 * 8, 0, 0]  # four prompts on two of four examples, twice
    assert state.personal[0]["seen"].tolist() == [4, 4, 4, 4]
    assert all(np.isfinite(reply.update.loss) for reply in replies)


def test_too_small_an_allowance_is_refused(black_setup):
    with pytest.raises(ConfigError, match="'queries' is 3, but FedLogic compares 4 prompts"):
        make(black_setup, queries=3)


def test_prompts_that_were_given_up_are_not_asked_again(black_setup, text_task, backend):
    method = make(black_setup, queries=8, prune=0.5)
    loop, state, _ = run(method, text_task, rounds=1)
    dead = {PROMPTS[k] for k in (state.shared["posterior"] == 0).nonzero().flatten().tolist()}
    assert "ice" in dead
    backend.asked.clear()
    state, _ = loop.run_round(state)
    assert backend.asked
    assert not {query.prompt.text for query in backend.asked} & dead
    assert state.shared["posterior"].sum() == pytest.approx(1)


def test_a_client_deploys_its_own_and_a_newcomer_the_global_one(black_setup, text_task):
    ell = evidence(black_setup, text_task)
    method = make(black_setup, temperature=2.0, pull=0.5)
    loop, state, _ = run(method, text_task)
    for client in range(3):
        prompt = loop.prompt(state, client)
        wanted = (ell[client] / 2 + 0.5 * state.shared["posterior"].log()).softmax(0)
        assert torch.allclose(method.chosen(prompt.shared, prompt.personal), wanted, atol=1e-5)
    assert method.candidate(state.shared, NO_PROMPT).text == PROMPTS[int(state.shared["posterior"].argmax())]


def test_a_mixture_weighs_predictions(black_setup, text_task):
    method = make(black_setup, deploy="mixture")
    shared = PromptState({"posterior": torch.tensor([0.25, 0.75, 0.0, 0.0])})
    found = method.logits(shared, NO_PROMPT, ("cold", "hot"), text_task.base_test).exp()
    scores = black_setup.oracle.score([Candidate(""), Candidate("fire")], text_task.base_test.items, ("cold", "hot"))
    assert torch.allclose(found, 0.25 * scores[0].softmax(-1) + 0.75 * scores[1].softmax(-1), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"merge": "product"}, {"deploy": "mixture"}])
def test_reruns_are_identical_and_numbers_of_clients_do_not_matter(black_setup, text_task, options):
    _, one, _ = run(make(black_setup, **options), text_task)
    _, two, _ = run(make(black_setup, **options), text_task)
    assert one.shared == two.shared
    assert one.personal == two.personal
    turned = [replace(data, client=2 - data.client) for data in text_task.clients]
    _, other, _ = run(make(black_setup, **options), replace(text_task, clients=tuple(reversed(turned))))
    assert torch.allclose(other.shared["posterior"], one.shared["posterior"], atol=1e-6)


def test_dropouts_and_a_single_client(black_setup, text_task):
    _, state, _ = run(make(black_setup), text_task, rounds=5, dropout=0.6)
    assert state.shared["posterior"].sum() == pytest.approx(1)
    _, state, _ = run(make(black_setup), text_task, clients=(1,))
    assert make(black_setup).candidate(state.shared, NO_PROMPT).text in ("fire", "lava the")


def test_a_client_that_sends_nonsense_counts_for_no_more_than_its_weight(black_setup):
    method = make(black_setup, prune=0.0)
    sent = [torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([-5.0, 0.0, 1e9, 0.0])]
    updates = [Update(k, PromptState({"posterior": q}), 1, 0.0, 0.0) for k, q in enumerate(sent)]
    merged, _ = method.server_side(Mean(Mean.Config())).apply(method.init_shared(), updates, NO_PROMPT)
    assert merged["posterior"].tolist() == pytest.approx([0, 0.5, 0.5, 0], abs=1e-6)


def test_alone(black_setup, text_task):
    alone = LocalOnlyWrapper(make(black_setup), Mean(Mean.Config()))
    _, state, _ = run(alone, text_task)
    found = alone.logits(state.shared, state.personal[0], ("cold", "hot"), text_task.base_test)
    assert found.shape == (4, 2)


def test_bundled_prompts_suit_the_task(black_setup):
    found = FedLogic(FedLogicConfig(), black_setup).prompts
    assert found[:3] == ("", "fire", "ice")
    assert any("category" in text for text in found)
    asked = FedLogic(FedLogicConfig(), black_setup.agreeing(classes=("wrong", "right"))).prompts
    assert any("calculation" in text for text in asked)
