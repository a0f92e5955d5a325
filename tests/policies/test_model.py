"""The policy in cells: what it plays is what the environment says, it stays frozen, and a prompt tells it of a cell."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from promptfed.allocation.cell import CellEnvironment, make_cell
from promptfed.errors import BackboneError, ConfigError
from promptfed.examples.base import TextItem
from promptfed.examples.episodes import EpisodeForm, EpisodeItem
from promptfed.measures.base import build_measure
from promptfed.policies.dt_network import CONTEXT, greedy_actions
from promptfed.policies.loading import load_policy
from promptfed.policies.model import Policy
from promptfed.seeding import derive, numpy_stream
from promptfed.tasks.allocation import best_piece
from promptfed.tasks.sources.cells import logged


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("dt", EpisodeForm(steps=20))


def strangers(count: int, steps: int) -> list[EpisodeItem]:
    """Return an episode in each of so many cells that have nothing in common."""
    items = []
    for number in range(count):
        cell = make_cell(f"stranger {number}", numpy_stream(99, "stranger", number))
        piece = best_piece(logged(cell, [derive(99, "log", number, k) for k in range(3)], steps))
        items.append(EpisodeItem(cell, number, steps, piece))
    return items


def test_what_it_plays_is_what_the_environment_says(policy: Policy) -> None:
    (item,) = strangers(1, 20)
    prompt = policy.tokens([item.piece])
    rewards, late = policy.play([item], prompt)
    game, earned, too_late = CellEnvironment(item.cell, 20), [], []
    seen, done = [game.reset(seed=item.seed)[0]], []
    for _ in range(20):
        slots = min(len(seen), CONTEXT)
        actions = np.zeros((slots, 16), dtype=np.float32)
        if slots > 1:
            actions[:-1] = done[len(done) - slots + 1 :]
        with torch.no_grad():
            out = policy.logits(
                torch.full((1, slots), 0.6), torch.from_numpy(np.stack(seen[-slots:]))[None],
                torch.from_numpy(actions)[None], prompt,
            )  # fmt: skip
        done.append(greedy_actions(out[:, -1])[0].numpy())
        shown, reward, _, _, information = game.step(done[-1])
        seen.append(shown)
        earned.append(reward)
        too_late.append(information["late"])
    assert rewards.item() == pytest.approx(np.mean(earned), abs=1e-5)
    assert late.item() == pytest.approx(np.mean(too_late), abs=1e-5)


def test_episodes_may_be_played_together(policy: Policy) -> None:
    items = strangers(3, 20)
    prompts = policy.tokens([item.piece for item in items])
    together, _ = policy.play(items, prompts)
    alone = [policy.play([item], prompts[row : row + 1])[0].item() for row, item in enumerate(items)]
    assert together.tolist() == pytest.approx(alone, abs=1e-4)
    assert policy.play([], None)[0].shape == (0,)


@pytest.mark.slow
def test_the_right_piece_of_a_trajectory_is_worth_much_in_cells_it_never_saw(policy: Policy) -> None:
    items = strangers(32, 20)
    labels, score = torch.ones(32, dtype=torch.int64), build_measure("normalised")
    pieces = policy.tokens([item.piece for item in items])
    right, none, wrong = (
        score.figure(policy.scores(items, *policy.play(items, prompt)), labels)
        for prompt in (pieces, None, pieces.roll(1, 0))
    )
    assert right >= 70
    assert right >= none + 15
    assert right >= wrong + 15


def test_it_stays_frozen_and_travels(policy: Policy) -> None:
    policy.verify_frozen()
    copy = pickle.loads(pickle.dumps(policy))
    assert copy.fingerprint == policy.fingerprint
    copy.network.head.bias.data[0] += 1
    with pytest.raises(BackboneError, match="changed during the run"):
        copy.verify_frozen()


def test_what_is_no_episode_is_refused(policy: Policy) -> None:
    with pytest.raises(ConfigError, match="use task allocation"):
        policy.play([TextItem("hello")], None)


def test_a_neutral_prompt_has_as_many_tokens_as_asked_for(policy: Policy) -> None:
    assert policy.neutral_tokens(1).shape == (1, 64)
    longer = policy.neutral_tokens(20)
    assert torch.equal(longer[15:], longer[:5])
