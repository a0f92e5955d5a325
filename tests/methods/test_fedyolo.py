"""FedYolo: each task has a prompt that nobody else touches."""

from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.mean import Mean, weighted_mean
from promptfed.build_method import build_method
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, FederatedTask

from ..tiny_language_models import CLASSES, client, setup, split

TASKS = ("news", "films", "news")


@pytest.fixture
def federation():
    """Three clients, of whom 0 and 2 have the same task."""
    method = build_method(
        "fedyolo", {"n_tokens": 2, "lr": 0.05, "local_epochs": 1, "batch_size": "all"}, setup(domains=TASKS)
    )
    clients = (client(0), client(1, [0, 1]), client(2, [2]))
    task = FederatedTask("toy", CLASSES, (), clients, split(), split([]), ())
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, task)), range(3))


def test_a_client_is_sent_trains_and_returns_its_own_task(federation):
    state = federation.start()
    assert list(state.shared) == ["task/0/prompt_embeddings", "task/1/prompt_embeddings"]
    broadcasts = federation.broadcasts(state)
    assert [list(sent) for sent in broadcasts.values()] == [[f"task/{k}/prompt_embeddings"] for k in (0, 1, 0)]
    state, replies = federation.run_round(state)
    assert not any(reply.failure for reply in replies)
    means = weighted_mean([replies[k].update.shared for k in (0, 2)], [4, 1])
    assert torch.equal(state.shared["task/0/prompt_embeddings"], means["task/0/prompt_embeddings"])
    assert torch.equal(state.shared["task/1/prompt_embeddings"], replies[1].update.shared["task/1/prompt_embeddings"])


def test_rounds_without_a_tasks_clients_leave_its_prompt_bit_for_bit(federation):
    state, _ = federation.run_round(federation.start())
    federation.method.participants = lambda round, drawn, clients: [0, 2]
    before = state.shared["task/1/prompt_embeddings"].numpy().tobytes()
    for _ in range(2):
        state, _ = federation.run_round(state)
    assert state.shared["task/1/prompt_embeddings"].numpy().tobytes() == before
    assert state.shared["task/0/prompt_embeddings"].numpy().tobytes() != before


def test_somebody_new_has_the_mean_of_scores_and_fits_to_the_best_task(federation):
    method, shared = federation.method, federation.start().shared
    apart = PromptState({name: t + 0.5 * number for number, (name, t) in enumerate(shared.items())})
    each = [method.logits(PromptState({name: apart[name]}), NO_PROMPT, CLASSES, split()) for name in apart]
    torch.testing.assert_close(method.logits(apart, NO_PROMPT, CLASSES, split()), torch.stack(each).mean(0))
    data = client(7)
    best = min((0, 1), key=lambda k: torch.nn.functional.cross_entropy(each[k], data.train.labels).item())
    fitted = method.fit_newcomer(apart, data)
    assert all(torch.equal(tensor, apart[f"task/{best}/prompt_embeddings"]) for tensor in fitted.values())
