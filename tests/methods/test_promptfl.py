from __future__ import annotations

import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.types import NO_PROMPT, Broadcast


def federation(setup, task, **options):
    method = PromptFL(PromptFLConfig(**options), setup)
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, task)), range(3))


def test_a_round_is_the_sample_weighted_mean_of_what_clients_learned(setup, toy_task):
    fed = federation(setup, toy_task)
    state, replies = fed.run_round(fed.start())
    counts = [3, 4, 10]
    by_hand = sum(n * r.update.shared["ctx"].double() for n, r in zip(counts, replies, strict=True)) / sum(counts)
    assert [r.update.samples for r in replies] == counts
    assert torch.allclose(state.shared["ctx"].double(), by_hand, atol=1e-7)


def test_clients_learn_different_prompts_and_none_is_just_the_last_one(setup, toy_task):
    fed = federation(setup, toy_task)
    state, replies = fed.run_round(fed.start())
    prompts = [r.update.shared for r in replies]
    assert all(a != b for i, a in enumerate(prompts) for b in prompts[i + 1 :])
    assert all(state.shared != prompt for prompt in prompts)


def test_the_received_prompt_is_not_changed_by_training(setup, toy_task):
    method = PromptFL(PromptFLConfig(), setup)
    shared = method.init_shared()
    before = shared["ctx"].clone()
    method.train(Broadcast(1, shared), toy_task.clients[0], NO_PROMPT)
    assert torch.equal(shared["ctx"], before)


def test_federation_lowers_the_loss_over_everybodys_images(setup, toy_task):
    fed = federation(setup, toy_task, lr=0.05, local_epochs=1, batch_size=100)

    def loss(shared):
        found = [
            F.cross_entropy(fed.method.logits(shared, NO_PROMPT, toy_task.base_classes, c.train), c.train.labels)
            for c in toy_task.clients
        ]
        return float(sum(found))

    state = fed.start()
    before = loss(state.shared)
    for _ in range(3):
        state, _ = fed.run_round(state)
    assert loss(state.shared) < before


def test_shared_state_is_only_the_context(setup):
    method = PromptFL(PromptFLConfig(n_ctx=5), setup)
    assert {name: tuple(t.shape) for name, t in method.init_shared().items()} == {"ctx": (5, 4)}
    assert len(method.init_personal(0)) == 0
