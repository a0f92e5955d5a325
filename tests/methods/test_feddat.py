"""FedDAT on a tiny model: the loss, what it does not move, and what a client deploys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from promptfed.build_method import build_method
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast

from ..tiny_language_models import CLASSES, client, setup

OPTIONS = {"n_tokens": 3, "lr": 0.05, "local_epochs": 1, "batch_size": "all"}


@pytest.fixture(scope="module")
def method():
    return build_method("feddat", OPTIONS, setup())


def other(state: PromptState, seed: int) -> PromptState:
    draw = torch.Generator().manual_seed(seed)
    return state.map(lambda t: t + torch.randn(t.shape, generator=draw))


def scores(method, prompt, data):
    return method.scores_with({"prompt_embeddings": prompt}, CLASSES, data.train)


def test_the_loss_is_the_papers(method):
    data, shared = client(), method.init_shared()
    local = PromptState({"local/prompt_embeddings": other(shared, 1)["prompt_embeddings"]})
    student = other(shared, 2)["prompt_embeddings"]
    problem = method.problem(Broadcast(1, shared), data, local)
    value, logits = problem.loss({"prompt_embeddings": student, **local}, [], torch.arange(4))
    s, own, copy = (
        scores(method, p, data) for p in (student, local["local/prompt_embeddings"], shared["prompt_embeddings"])
    )
    teacher, labels = (own + copy) / 2, data.train.labels
    torch.testing.assert_close(logits, teacher)

    def kl(target, shares):
        target, shares = torch.softmax(target / 3, -1), torch.softmax(shares / 3, -1)
        return 9 * (target * (target / shares).log()).sum(-1).mean()

    expected = F.cross_entropy(s, labels) + kl(teacher, s) + F.cross_entropy(teacher, labels) + kl(s, teacher)
    assert value.item() == pytest.approx(expected.item() / 2, rel=1e-5)


def test_where_all_three_prompts_are_equal_the_loss_is_cross_entropy_alone(method):
    data, shared = client(), method.init_shared()
    problem = method.problem(Broadcast(1, shared), data, NO_PROMPT)
    assert torch.equal(problem.start["local/prompt_embeddings"], shared["prompt_embeddings"])
    value, _ = problem.loss(dict(problem.start), [], torch.arange(4))
    entropy = F.cross_entropy(scores(method, shared["prompt_embeddings"], data), data.train.labels)
    assert value.item() == pytest.approx(entropy.item(), abs=1e-6)


def test_student_and_teacher_learn_the_probabilities_that_stand_for_labels(method):
    data, shared = client(), method.init_shared()
    targets = torch.tensor([[0.3, 0.7], [0.9, 0.1], [0.5, 0.5], [1.0, 0.0]])
    guesses = replace(data, train=replace(data.train, targets=targets))
    problem = method.problem(Broadcast(1, shared), guesses, NO_PROMPT)
    value, _ = problem.loss(dict(problem.start), [], torch.tensor([0, 3]))
    entropy = F.cross_entropy(scores(method, shared["prompt_embeddings"], data)[[0, 3]], targets[[0, 3]])
    assert value.item() == pytest.approx(entropy.item(), abs=1e-6)


def test_a_client_sends_the_shared_prompt_and_keeps_its_own(method):
    data, shared = client(), method.init_shared()
    update, personal = method.train(Broadcast(1, shared), data, NO_PROMPT)
    assert list(update.shared) == ["prompt_embeddings"]
    assert list(personal) == ["local/prompt_embeddings"]
    assert not torch.equal(update.shared["prompt_embeddings"], personal["local/prompt_embeddings"])
    deployed = method.logits(update.shared, personal, CLASSES, data.test)
    ends = [scores(method, p, data) for p in (update.shared["prompt_embeddings"], personal["local/prompt_embeddings"])]
    torch.testing.assert_close(deployed, sum(ends) / 2)
    torch.testing.assert_close(method.logits(update.shared, NO_PROMPT, CLASSES, data.test), ends[0])
