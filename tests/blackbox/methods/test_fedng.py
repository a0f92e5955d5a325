from __future__ import annotations

import numpy as np
import pytest
import torch

from promptfed.blackbox.methods.fedng import CrossRank, FedNG, FedNGConfig, mean_rank, ranked_state
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Update

TAG = torch.zeros(8, dtype=torch.uint8)
FINALISTS = [(0, 0), (1, 2), (3, 4)]


def make(setup, **options):
    own = {"queries": 80, "batch_size": 4, "n_tokens": 2, "candidates": 20, "finalists": 3}
    return FedNG(FedNGConfig(**{**own, **options}), setup)


def update(client, tokens, ranks, samples=1):
    shared = {"tokens": torch.tensor(tokens, dtype=torch.int16), "ranks": torch.tensor(ranks)}
    return Update(client, PromptState(shared), samples, 0.0, 0.0)


def apply(updates, finalists=3):
    server = CrossRank(finalists, 20, seed=0)
    shared = ranked_state(FINALISTS[0], FINALISTS, TAG)
    return server.apply(shared, updates, server.init(shared))[0]


def test_indices_travel_and_no_fitness_does(black_setup, text_task):
    method = make(black_setup)
    shared = method.init_shared()
    assert {name: (t.dtype, tuple(t.shape)) for name, t in shared.items()} == {
        "tokens": (torch.int16, (2,)), "finalists": (torch.int16, (4, 2)), "vocabulary": (torch.uint8, (8,)),
    }  # fmt: skip
    sent, _ = method.train(Broadcast(1, shared), text_task.clients[0], NO_PROMPT)
    assert {name: (t.dtype, tuple(t.shape)) for name, t in sent.shared.items()} == {
        "tokens": (torch.int16, (2,)), "ranks": (torch.float32, (4,)),
    }  # fmt: skip
    assert sorted(sent.shared["ranks"].tolist()) != [0.0] * 4
    assert sent.shared["ranks"].sum() == 6  # 0 + 1 + 2 + 3, ties shared


def test_the_best_mean_rank_by_samples_wins():
    merged = apply([update(0, (5, 5), [0.0, 2.0, 1.0], 3), update(1, (6, 6), [2.0, 1.0, 0.0], 1)])
    assert merged["tokens"].tolist() == [0, 0]  # 0.5 against 1.75 and 0.75
    merged = apply([update(0, (5, 5), [0.0, 2.0, 1.0], 1), update(1, (6, 6), [2.0, 1.0, 0.0], 1)])
    assert merged["tokens"].tolist() == [3, 4]
    assert merged["finalists"].tolist() == [[3, 4], [5, 5], [6, 6]]


def test_a_liar_has_the_say_of_one_ranking():
    honest = [update(k, (5, k), [2.0, 0.0, 1.0]) for k in range(2)]
    merged = apply([*honest, update(9, (6, 6), [1e9, 1e9, -1e30])])
    assert merged["tokens"].tolist() == [1, 2]
    assert mean_rank([torch.tensor([1e9, 1e9, -1e30])], [1]).tolist() == [1.5, 1.5, 0.0]


def test_equals_leave_the_earlier_one():
    merged = apply([update(0, (5, 5), [1.0, 0.0, 2.0]), update(1, (5, 5), [0.0, 1.0, 2.0])])
    assert merged["tokens"].tolist() == [0, 0]
    assert merged["finalists"].tolist() == [[0, 0], [5, 5]]  # the same find twice is one finalist


def test_finds_that_are_no_tokens_are_left_out_and_too_many_are_drawn():
    updates = [update(0, (5, 99), [0.0, 1.0, 2.0]), update(1, (-1, 5), [0.0, 1.0, 2.0])]
    assert apply(updates)["finalists"].tolist() == [[0, 0]]
    many = [update(k, (7, k), [0.0, 1.0, 2.0]) for k in range(8)]
    kept = apply(many, finalists=3)["finalists"].tolist()
    assert len(kept) == 4
    assert kept == apply(many[::-1], finalists=3)["finalists"].tolist()


def test_ranks_are_of_validation_examples_and_the_last_round_only_ranks(black_setup, text_task, backend):
    method = make(black_setup)  # 3 rounds
    method.train(Broadcast(3, method.init_shared()), text_task.clients[0], NO_PROMPT)
    asked = {query.item.text for query in backend.asked}
    assert asked == {item.text for item in text_task.clients[0].val.items}


def test_a_client_starts_from_the_finalist_that_it_ranks_first(black_setup, text_task, monkeypatch):
    method = make(black_setup, queries=8)  # nothing is left for a search
    texts = [method.vocabulary.text(row) for row in method.init_shared()["finalists"].tolist()]
    sent, _ = method.train(Broadcast(1, method.init_shared()), text_task.clients[0], NO_PROMPT)
    first = int(np.argmin(sent.shared["ranks"].numpy()))
    assert method.candidate(sent.shared, NO_PROMPT).text == texts[first]


@pytest.mark.parametrize("optimizer", ["DiscreteOnePlusOne", "FastGADiscreteOnePlusOne"])
def test_others_of_nevergrad_s_optimisers_go_by_name(optimizer, black_setup, text_task):
    method = make(black_setup, optimizer=optimizer)
    update, _ = method.train(Broadcast(1, method.init_shared()), text_task.clients[0], NO_PROMPT)
    assert update.samples == len(text_task.clients[0].train)


def test_an_unknown_optimiser_is_named(black_setup, text_task):
    method = make(black_setup, optimizer="Gradient")
    with pytest.raises(ConfigError, match="PortfolioDiscreteOnePlusOne"):
        method.train(Broadcast(1, method.init_shared()), text_task.clients[0], NO_PROMPT)
