from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptfed.attacks.membership import (
    Separation,
    auc_interval,
    losses,
    of_classes,
    prompt_membership,
    update_membership,
    update_scores,
)
from promptfed.errors import ConfigError
from promptfed.local_training import GradientTraining
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt


@pytest.fixture
def method(setup):
    return PromptFL(PromptFLConfig(n_ctx=2, lr=0.05, local_epochs=20), setup)


def test_separation_by_hand():
    """Of the pairs (3, 2), (3, 1), (1, 2), (1, 1) the first two are right, the third wrong, the last half."""
    found = Separation.of(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0]))
    assert found.auc == 0.625
    assert found.tpr == 0.5  # one of two members above every non-member
    assert (found.members, found.others) == (2, 2)


def test_one_false_positive_in_a_hundred_is_allowed():
    others = torch.cat([torch.zeros(99), torch.tensor([10.0])])
    assert Separation.of(torch.tensor([1.0, -1.0]), others).tpr == 0.5
    assert Separation.of(torch.tensor([1.0, -1.0]), others[1:]).tpr == 0.0  # 99 allow none


def test_guessing_is_one_half_and_its_interval_holds_it():
    stream = torch.Generator().manual_seed(0)
    found = Separation.of(torch.randn(400, generator=stream), torch.randn(500, generator=stream))
    assert found.auc_interval[0] < 0.5 < found.auc_interval[1]
    assert found.tpr_interval[0] < 0.01 < found.tpr_interval[1]
    assert Separation.of(torch.zeros(3), torch.zeros(5)).auc == 0.5


def test_interval_of_hanley_and_mcneil():
    """At AUC 0.5 with 10 and 20: Q1 = Q2 = 1/3, variance (1/4 + 9/12 + 19/12) / 200."""
    half = 1.959964 * ((0.25 + 9 / 12 + 19 / 12) / 200) ** 0.5
    assert auc_interval(0.5, 10, 20) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-6)
    assert auc_interval(1.0, 10, 20) == (1.0, 1.0)


def test_nothing_to_separate_is_an_error():
    with pytest.raises(ConfigError, match="training examples"):
        Separation.of(torch.zeros(0), torch.zeros(3))


def test_the_loss_is_that_of_all_classes(method, toy_task):
    split, prompt = toy_task.base_test, ClientPrompt(method.init_shared())
    logits = method.logits(prompt.shared, NO_PROMPT, toy_task.base_classes, split)
    expected = -logits.log_softmax(1)[range(len(split)), split.labels]
    torch.testing.assert_close(losses(method, prompt, toy_task, split), expected)


def test_non_members_are_of_the_same_classes(toy_task):
    assert sorted(set(of_classes(toy_task.base_test, (1, 3)).labels.tolist())) == [1, 3]


def test_the_update_score_is_the_derivative_along_the_change(method, toy_task):
    data, sent = toy_task.client(2), Broadcast(1, method.init_shared())
    noise = torch.randn(sent.shared["ctx"].shape, generator=torch.Generator().manual_seed(3))
    change = PromptState({"ctx": 0.01 * noise})
    scores = update_scores(method, sent, NO_PROMPT, data, change)
    problem = method.problem(sent, data, NO_PROMPT)
    for row in range(3):
        ctx = sent.shared["ctx"].clone().requires_grad_()
        features = method.setup.backbone.encode_prompted_texts(problem.texts({"ctx": ctx}))
        loss = problem.loss({"ctx": ctx}, features, torch.tensor([row]))[0]
        gradient = torch.autograd.grad(loss, ctx)[0]
        assert scores[row].item() == pytest.approx(-(gradient * noise).sum().item() / noise.norm().item(), rel=1e-2)


def test_an_update_tells_a_client_with_one_example(method, toy_task):
    """A client that trains on one example alone lowers its loss more than that of most others."""
    clients = [replace(data, train=replace(data.train, items=data.train.items[:1], labels=data.train.labels[:1]))
               for data in toy_task.clients]  # fmt: skip
    task = replace(toy_task, clients=tuple(clients))
    sent, personal = dict.fromkeys(range(3), method.init_shared()), dict.fromkeys(range(3), NO_PROMPT)
    found = update_membership(method, sent, personal, task)
    assert found["trained"]["members"] == 3
    assert isinstance(method, GradientTraining)
    assert found["trained"]["auc"] >= found["start"]["auc"] - 0.2


def test_a_prompt_that_did_not_train_has_the_control_s_figures(method, toy_task):
    start = ClientPrompt(method.init_shared())
    found = prompt_membership(method, dict.fromkeys(range(3), start), start, toy_task)
    assert found["trained"] == found["start"]
    assert found["trained"]["members"] == sum(len(data.train) for data in toy_task.clients)
