"""PromptDT: its gradient by differences, what it sends, and what its prompt wins in cells."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.backbones.base import hash_tensors
from promptfed.errors import ConfigError
from promptfed.measures.base import build_measure
from promptfed.policies.loading import load_basis
from promptfed.prompt_state import PromptState
from promptfed.prompts.policy_method import best_logs
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt

from ..small_cells import method_of, setup_of, task_of


@pytest.fixture(scope="module")
def setting():
    task = task_of()
    return task, setup_of(task)


def test_its_gradient_is_the_difference_of_losses(setting):
    task, setup = setting
    method = method_of("promptdt", setup)
    prompt = method.init_shared()["prompt"].requires_grad_()

    def loss(tokens):
        objective = method.problem(Broadcast(3, method.init_shared()), task.clients[0], NO_PROMPT)
        return objective.loss({"prompt": tokens}, [], torch.arange(2))[0]

    loss(prompt).backward()
    slope = prompt.grad.norm()
    along = prompt.grad / slope
    sides = [loss(prompt.detach() + step * along).item() for step in (0.02, -0.02)]
    assert slope.item() == pytest.approx((sides[0] - sides[1]) / 0.04, rel=0.03)


def test_the_best_episodes_are_learned(setting):
    logs = [item.log for item in setting[0].clients[0].train.items]
    episodes = setting[0].clients[0].train.items
    means = [log.rewards.mean() for log in logs]
    chosen = best_logs(episodes, 0.5)
    assert len(chosen) == 3
    assert min(log.rewards.mean() for log in chosen) >= sorted(means)[-3]
    assert [logs.index(log) for log in chosen] == sorted(logs.index(log) for log in chosen)
    assert len(best_logs(episodes, 0.01)) == 1
    with pytest.raises(ConfigError, match="was not logged"):
        best_logs(setting[0].clients[0].test.items, 0.5)


def test_it_sends_its_prompt_and_keeps_its_offset(setting):
    task, setup = setting
    method = method_of("promptdt", setup, tokens=3, local_epochs=1)
    shared, own = method.init_shared(), method.init_personal(0)
    update, personal = method.train(Broadcast(1, shared), task.clients[0], own)
    assert set(update.shared) == {"prompt"}
    assert set(personal) == {"offset"}
    # The first step of Adam moves each number by the learning rate, an offset by .3 of it.
    moved, kept = update.shared["prompt"] - shared["prompt"], personal["offset"]
    torch.testing.assert_close(kept, 0.3 * moved, atol=1e-4, rtol=0.02)
    tokens = method.prompt(update.shared, personal)
    torch.testing.assert_close(tokens[0], update.shared["prompt"] + personal["offset"])
    assert torch.equal(method.prompt(update.shared, NO_PROMPT)[0], update.shared["prompt"])  # a newcomer's


def test_without_an_offset_it_keeps_nothing(setting):
    task, setup = setting
    method = method_of("promptdt", setup, tokens=3, local_epochs=1, personal=False)
    assert len(method.init_personal(0)) == 0
    shared = method.init_shared()
    assert {name: tuple(t.shape) for name, t in shared.items()} == {"prompt": (3, 64)}
    update, personal = method.train(Broadcast(1, shared), task.clients[0], NO_PROMPT)
    assert not torch.equal(update.shared["prompt"], shared["prompt"])
    assert len(personal) == 0
    again, _ = method.train(Broadcast(1, shared), task.clients[0], NO_PROMPT)
    assert torch.equal(again.shared["prompt"], update.shared["prompt"])


def test_weights_of_directions_are_sent_in_the_place_of_tokens(setting):
    task, setup = setting
    method = method_of("promptdt", setup, rank=16, local_epochs=1)
    piece = task.clients[0].test.items[0].piece
    numbers = sum(part.size for part in (piece.observations, piece.actions, piece.returns))
    shared, own = method.init_shared(), method.init_personal(0)
    update, personal = method.train(Broadcast(1, shared), task.clients[0], own)
    assert {name: tuple(tensor.shape) for name, tensor in update.shared.items()} == {"weights": (16,)}
    assert 10 * update.shared["weights"].numel() <= numbers == 165
    # The first step of Adam: twice the learning rate of tokens, and .3 of that for an offset.
    torch.testing.assert_close(
        update.shared["weights"].abs(), torch.full((16,), 2 * method.config.lr), rtol=0.02, atol=0
    )
    torch.testing.assert_close(personal["offset"], 0.3 * update.shared["weights"], rtol=0.02, atol=1e-4)
    weights = update.shared["weights"] + personal["offset"]
    torch.testing.assert_close(method.prompt(update.shared, personal), load_basis()(weights[None]).detach())
    with pytest.raises(ConfigError, match="'tokens' is 3, and the directions of option 'rank' make 15"):
        method_of("promptdt", setup, rank=16, tokens=3)


def test_weights_without_an_offset_are_all_that_a_client_has(setting):
    task, setup = setting
    method = method_of("promptdt", setup, rank=4, local_epochs=1, personal=False)
    assert len(method.init_personal(0)) == 0
    shared = method.init_shared()
    update, personal = method.train(Broadcast(1, shared), task.clients[0], NO_PROMPT)
    assert {name: tuple(tensor.shape) for name, tensor in update.shared.items()} == {"weights": (4,)}
    assert len(personal) == 0
    torch.testing.assert_close(method.prompt(shared, NO_PROMPT)[0], load_basis().start.detach())
    tokens = method.prompt(update.shared, NO_PROMPT)
    torch.testing.assert_close(tokens, load_basis()(update.shared["weights"][None]).detach())


def test_what_a_run_keeps_of_its_directions(setting):
    setup = setting[1]
    sha = method_of("promptdt", setup, rank=4).basis
    assert sha == hash_tensors(load_basis().state_dict().items()) == method_of("promptdt", setup, rank=16).basis
    assert method_of("promptdt", setup).basis == ""


def test_tokens_are_mixed_and_not_scores(setting):
    task, setup = setting
    method = method_of("promptdt", setup)
    tuned = PromptState({"prompt": torch.randn(15, 64, generator=torch.Generator().manual_seed(0))})
    ends = [
        method.client_logits(ClientPrompt(method.init_shared(), tuned=tuned, alpha=alpha), (), task.base_test)
        for alpha in (0.0, 0.5, 1.0)
    ]
    assert torch.isin(ends[1][:, :2], torch.tensor([0.0, 1.0], dtype=torch.float64)).all()
    assert not torch.allclose(ends[1], (ends[0] + ends[2]) / 2)


def test_it_needs_a_policy(setting):
    from ..small_series import setup_of as series_setup
    from ..small_series import task_of as series_task

    with pytest.raises(ConfigError, match="use --task allocation"):
        method_of("promptdt", series_setup(series_task()))
    with pytest.raises(ConfigError, match="acts in episodes"):
        _ = setting[1].backbone


def trained(task, setup, clients, **options):
    """Return the method, the prompt that ``clients`` reach together in ten rounds, and each one's offset."""
    method, mean = method_of("promptdt", setup, **options), Mean(Mean.Config())
    shared, own = method.init_shared(), {client.client: method.init_personal(client.client) for client in clients}
    for round in range(1, 11):
        updates = []
        for client in clients:
            update, own[client.client] = method.train(Broadcast(round, shared), client, own[client.client])
            updates.append(update)
        shared, _ = mean.apply(shared, updates, NO_PROMPT)
    return method, shared, own


def normalised(method, shared, personal, split):
    scores = method.logits(shared, personal, (), split)
    return build_measure("normalised").figure(scores, split.labels)


def at_home(method, shared, own, clients):
    return fmean(normalised(method, shared, own[client.client], client.test) for client in clients)


@pytest.mark.slow
def test_it_is_as_good_as_a_trajectory_at_home_and_far_better_than_no_prompt_elsewhere():
    task = task_of(clients=4, episodes=9, steps=20, test_episodes=3, held_out=2)
    setup = setup_of(task)
    piece = method_of("trajectory_prompt", setup)
    method, shared, own = trained(task, setup, task.clients)
    trajectory = fmean(normalised(piece, NO_PROMPT, NO_PROMPT, client.test) for client in task.clients)
    assert at_home(method, shared, own, task.clients) >= trajectory - 3
    without = setup.policy.template_scores("", task.new_test, ())
    level = build_measure("normalised").figure(without, task.new_test.labels)
    assert normalised(method, shared, NO_PROMPT, task.new_test) >= level + 15


@pytest.mark.slow
def test_a_tenth_of_the_numbers_is_enough_at_home():
    gaps = []
    for seed in (0, 1):
        task = task_of(clients=3, seed=seed, episodes=12, steps=20, test_episodes=4, held_out=0)
        setup = setup_of(task)
        piece = method_of("trajectory_prompt", setup)
        method, shared, own = trained(task, setup, task.clients, rank=64)
        trajectory = fmean(normalised(piece, NO_PROMPT, NO_PROMPT, client.test) for client in task.clients)
        gaps.append(at_home(method, shared, own, task.clients) - trajectory)
    assert 10 * shared["weights"].numel() <= setup.policy.tokens([task.clients[0].test.items[0].piece]).numel() == 960
    assert fmean(gaps) >= -3


@pytest.mark.slow
def test_where_a_cell_logged_two_episodes_a_shared_prompt_is_better_than_each_cell_alone():
    task = task_of(clients=6, episodes=2, steps=30, test_episodes=2, held_out=2)
    setup = setup_of(task)
    method, shared, own = trained(task, setup, task.clients, personal=False)
    alone, elsewhere = [], []
    for client in task.clients:
        _, prompt, offset = trained(task, setup, [client], personal=False)
        alone.append(normalised(method, prompt, offset[client.client], client.test))
        elsewhere.append(normalised(method, prompt, NO_PROMPT, task.new_test))
    assert at_home(method, shared, own, task.clients) > fmean(alone)
    assert normalised(method, shared, NO_PROMPT, task.new_test) > fmean(elsewhere) + 5
