"""Fine-tuning: Profit's objective, every client alone, the whole shared prompt comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.local_training import train_clients
from promptfed.personalize.finetune import finetune
from promptfed.personalize.options import FinetuneOptions
from promptfed.types import Broadcast, ClientPrompt


def test_one_step_follows_the_gradient_of_profits_objective(setup, toy_task):
    """With sgd, the second of two full-batch steps sees the pull: checked against autograd on the formula."""
    method = build_method("promptfl", {"n_ctx": 3, "optimizer": "sgd", "momentum": 0.0, "batch_size": 99}, setup)
    data, start, lam, lr = toy_task.clients[2], method.init_shared(), 0.7, 0.5
    options = FinetuneOptions(lr=lr, epochs=2, l2_to_global=lam)
    [own] = finetune(method, [(ClientPrompt(start), data)], 4, options)

    problem = method.problem(Broadcast(4, start), data, ClientPrompt(start).personal)
    ctx = start["ctx"].clone()
    for _ in range(2):
        here = ctx.clone().requires_grad_(True)
        texts = setup.backbone.encode_prompted_texts(list(problem.texts({"ctx": here})))
        loss, _ = problem.loss({"ctx": here}, texts, torch.arange(len(data.train)))
        (loss + lam / 2 * (here - start["ctx"]).square().sum()).backward()
        ctx = ctx - lr * here.grad
    torch.testing.assert_close(own.tuned["ctx"], ctx, rtol=1e-4, atol=1e-6)
    assert own.shared is start
    assert not len(own.personal)


def test_a_strong_pull_keeps_the_prompt_near(setup, toy_task):
    method = build_method("promptfl", {"n_ctx": 3, "optimizer": "sgd", "momentum": 0.0}, setup)
    start, data = method.init_shared(), toy_task.clients[2]

    def moved(pull):
        options = FinetuneOptions(lr=0.1, epochs=20, l2_to_global=pull)
        return (finetune(method, [(ClientPrompt(start), data)], 4, options)[0].tuned - start).norm()

    assert moved(10.0) < moved(1.0) < moved(0.0)


def test_side_by_side_is_one_by_one(setup, toy_task):
    method = build_method("promptfl", {"n_ctx": 3, "batch_size": 2}, setup)
    jobs = [(ClientPrompt(method.init_shared()), data) for data in toy_task.clients]
    together = finetune(method, jobs, 4, FinetuneOptions(epochs=3, l2_to_global=0.1))
    alone = [finetune(method, [job], 4, FinetuneOptions(epochs=3, l2_to_global=0.1))[0] for job in jobs]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.tuned["ctx"], other.tuned["ctx"], rtol=0, atol=1e-5)


def test_the_default_rate_is_a_fifth_of_the_runs_and_does_not_fall(setup, toy_task):
    method = build_method("promptfl", {"n_ctx": 3, "lr": 0.3}, setup)
    data, start = toy_task.clients[0], method.init_shared()
    [own] = finetune(method, [(ClientPrompt(start), data)], 4, FinetuneOptions(epochs=2))
    training = method.config.model_copy(update={"lr": 0.2 * 0.3, "local_epochs": 2, "schedule": "constant"})
    problem = method.problem(Broadcast(4, start), data, start)
    [(expected, _)] = train_clients([(data.client, problem)], training, setup, 4)
    assert own.tuned == expected, "a fifth of the run's rate, although its cosine is zero in round 4 of 3"


def test_names_that_are_not_trained_are_in_the_copy_too(setup, toy_task, monkeypatch):
    """The personal prompt is a full copy of the shared one, whatever a client sends back in a round."""
    method = build_method("promptfl", {"n_ctx": 3}, setup)
    start = type(method.init_shared())({**method.init_shared(), "frozen": torch.ones(2)})
    only = method.problem

    def without_frozen(broadcast, data, personal):
        found = only(broadcast, data, personal)
        return replace(found, start=type(start)({"ctx": found.start["ctx"]}))

    monkeypatch.setattr(method, "problem", without_frozen)
    [own] = finetune(method, [(ClientPrompt(start), toy_task.clients[0])], 4, FinetuneOptions())
    assert own.tuned.mismatch(start) is None
    assert torch.equal(own.tuned["frozen"], torch.ones(2))
    assert not torch.equal(own.tuned["ctx"], start["ctx"])


def test_a_method_with_a_personal_part_gets_that(setup, toy_task):
    method = build_method("promptfolio", {"n_ctx": 3}, setup)
    start = ClientPrompt(method.init_shared(), method.init_personal(0))
    [own] = finetune(method, [(start, toy_task.clients[0])], 4, FinetuneOptions())
    assert not len(own.tuned)
    assert own.personal["local"].shape == own.shared["ctx"].shape
    assert own.personal != start.personal
    assert own.shared is start.shared, "what it would have sent is thrown away"


def test_what_is_not_trained_by_gradients_is_refused(setup, toy_task):
    method = build_method("zero_shot", {}, setup)
    with pytest.raises(ConfigError, match="zero-shot trains nothing by gradients"):
        finetune(method, [(ClientPrompt(method.init_shared()), toy_task.clients[0])], 4, FinetuneOptions())
