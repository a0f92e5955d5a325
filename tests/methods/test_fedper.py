from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods.fedper import FedPer, FedPerConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextTuner
from promptfed.types import NO_PROMPT, Broadcast

NAMES = ("red", "pink", "cyan")


@pytest.mark.parametrize("end", ["first", "last"])
def test_shared_and_private_tokens_are_trained_as_one_context(setup, toy_task, end):
    config = FedPerConfig(n_ctx=6, n_private=2, private_at=end)
    method, tuner = FedPer(config, setup), ContextTuner(config, setup)
    update, personal = method.train(Broadcast(1, method.init_shared()), toy_task.clients[2], NO_PROMPT)
    whole, _ = tuner.train(tuner.start(), toy_task.clients[2], round=1)
    private, shared = (whole["ctx"][:2], whole["ctx"][2:]) if end == "first" else (whole["ctx"][4:], whole["ctx"][:4])
    assert torch.equal(update.shared["ctx"], shared)
    assert torch.equal(personal["private"], private)
    assert torch.allclose(
        method.class_features(update.shared, personal, NAMES), tuner.class_features(whole, NAMES), atol=1e-6
    )


def test_private_tokens_are_never_sent_and_differ_between_clients(setup, toy_task):
    method = FedPer(FedPerConfig(n_ctx=6, n_private=2), setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state = fed.start()
    assert {name: tuple(t.shape) for name, t in state.shared.items()} == {"ctx": (4, 4)}
    for _ in range(2):
        state, replies = fed.run_round(state)
        assert all(list(reply.update.shared) == ["ctx"] and not reply.failure for reply in replies)
        assert all(reply.update.shared["ctx"].shape == (4, 4) for reply in replies)
    kept = [state.personal[client] for client in range(3)]
    assert kept[0] != kept[1] != kept[2] != kept[0]


def test_private_tokens_come_back_in_the_next_round(setup, toy_task):
    method, data = FedPer(FedPerConfig(n_ctx=6, n_private=2), setup), toy_task.clients[1]
    own = PromptState({"private": torch.full((2, 4), 0.3)})
    start = method.problem(Broadcast(2, method.init_shared()), data, own).start
    assert torch.equal(start["ctx"], torch.cat([method.init_shared()["ctx"], own["private"]]))


def test_somebody_new_has_the_untrained_private_tokens(setup):
    config = FedPerConfig(n_ctx=6, n_private=2)
    method, tuner = FedPer(config, setup), ContextTuner(config, setup)
    features = method.class_features(method.init_shared(), NO_PROMPT, NAMES)
    assert torch.equal(features, tuner.class_features(tuner.start(), NAMES))


def test_blend_goes_from_nobodys_to_the_clients_own(setup):
    method = FedPer(FedPerConfig(n_ctx=6, n_private=2), setup)
    shared, personal = method.init_shared(), PromptState({"private": torch.full((2, 4), 0.3)})

    def read(own):
        return method.class_features(shared, own, NAMES)

    assert torch.allclose(read(method.blend(shared, personal, 0.0)), read(NO_PROMPT), atol=1e-6)
    assert torch.allclose(read(method.blend(shared, personal, 1.0)), read(personal), atol=1e-6)
    assert not torch.allclose(read(method.blend(shared, personal, 0.5)), read(personal), atol=1e-3)


def test_class_specific_contexts_are_split_along_the_tokens(setup, toy_task):
    method = FedPer(FedPerConfig(n_ctx=6, n_private=2, class_specific=True), setup)
    shared = method.init_shared()
    assert shared["ctx"].shape == (4, 4, 4), "classes, tokens, dim"
    update, personal = method.train(Broadcast(1, shared), toy_task.clients[0], NO_PROMPT)
    assert personal["private"].shape == (4, 2, 4)
    norms = method.class_features(update.shared, personal, NAMES).norm(dim=-1)
    assert torch.allclose(norms, torch.ones(3))


def test_a_context_that_is_all_private_is_refused(setup):
    with pytest.raises(ConfigError, match=r"'n_private' is 4 of 4 context tokens.*1 to 3"):
        FedPer(FedPerConfig(n_ctx=4, n_private=4), setup)


def test_clients_side_by_side_end_where_each_would_alone(setup, toy_task):
    method = FedPer(FedPerConfig(), setup)
    jobs = [(Broadcast(1, method.init_shared()), data, NO_PROMPT) for data in toy_task.clients[1:]]
    for (update, personal), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, own = method.train(*job)
        assert F.mse_loss(update.shared["ctx"], alone.shared["ctx"]).sqrt() < 1e-5
        assert F.mse_loss(personal["private"], own["private"]).sqrt() < 1e-5
