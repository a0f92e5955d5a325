"""Canaries by hand: where they are planted, and what their ranks come to."""

from __future__ import annotations

import math

import pytest
import torch

from promptfed.attacks.canary import (
    allowed_rate,
    canary_figures,
    chance_exposure,
    draw_canaries,
    exposures,
    plant,
    shown_epsilon,
)
from promptfed.errors import ConfigError
from promptfed.intervals import exact_lower_bound
from promptfed.types import NO_EXAMPLES, FederatedTask

from ..tiny_language_models import CLASSES, TEXTS, client


def test_exposure_is_the_logarithm_of_the_rank() -> None:
    references = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    planted = torch.tensor([0.9, 0.55, 0.05, 0.7])
    ranks = [1, 3, 8, 1.5]  # the last one shares the place of the best reference
    assert exposures(planted, references) == pytest.approx([math.log2(8 / rank) for rank in ranks])
    figures = canary_figures(planted, references)
    assert figures["exposure"] == pytest.approx(sum(math.log2(8 / rank) for rank in ranks) / 4)
    assert (figures["exposure_highest"], figures["exposure_possible"]) == (3, 3)
    assert figures["median_rank"] == pytest.approx(2.25)
    assert figures["auc"] == pytest.approx((7 + 5 + 0 + 6.5) / 28)


def test_exposure_by_chance_is_the_mean_over_all_ranks() -> None:
    assert chance_exposure(3) == pytest.approx((2 + 1 + math.log2(4 / 3) + 0) / 4)
    assert chance_exposure(10_000) == pytest.approx(math.log2(math.e), abs=0.01)
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(4000, generator=generator)
    assert canary_figures(scores[:2000], scores[2000:])["exposure"] == pytest.approx(chance_exposure(2000), abs=0.1)


def test_planted_canaries_stand_among_the_training_texts_of_their_client() -> None:
    task = FederatedTask("toy", CLASSES, (), (client(0, [0, 1]), client(1)), NO_EXAMPLES, NO_EXAMPLES, ("",))
    drawn = draw_canaries(["alpha", "beta", "gamma"], 2, [0, 1], 4, 5, 6, seed=3)
    assert [canary.client is None for canary in drawn] == [False] * 4 + [True] * 5
    assert [canary.label for canary in drawn] == [0, 1] * 4 + [0]
    assert all(len(canary.text.split()) == 6 for canary in drawn)
    assert drawn == draw_canaries(["alpha", "beta", "gamma"], 2, [0, 1], 4, 5, 6, seed=3)
    planted = plant(task, drawn, repeat=2)
    for data, before in zip(planted.clients, task.clients, strict=True):
        own = [canary for canary in drawn if canary.client == data.client]
        assert len(data.train) == len(before.train) + 2 * len(own)
        texts = [item.text for item in data.train.items]
        assert texts[: len(before.train)] == [item.text for item in before.train.items]
        assert all(texts.count(canary.text) == 2 for canary in own)
        assert data.train.labels.tolist()[len(before.train) :] == [c.label for c in own for _ in range(2)]
        assert set(data.classes) == set(data.train.labels.tolist())
        assert data.test is before.test
    assert task.clients[1].train.items[0].text == TEXTS[0]


def test_epsilon_limits_what_a_test_can_find() -> None:
    assert allowed_rate(0.0, 0.0) == pytest.approx(0.01)
    assert allowed_rate(math.log(4), 1e-3) == pytest.approx(0.041)
    assert allowed_rate(500.0, 1e-5) == 1


def test_canaries_show_an_epsilon_that_no_smaller_one_allows() -> None:
    references = torch.linspace(0, 1, 200)[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    told = shown_epsilon(torch.full((10,), 2.0), references)
    false = int((references[100:] > references[:100].sort(descending=True).values[1]).sum())
    high = 1 - exact_lower_bound(100 - false, 100)
    assert told["epsilon_shown"] == pytest.approx(math.log(0.025**0.1 / high))
    assert told["epsilon_possible"] == pytest.approx(math.log(0.025**0.1 / (1 - 0.025**0.01)))
    assert told["epsilon_shown"] <= told["epsilon_possible"]
    assert shown_epsilon(torch.full((10,), 2.0), references, 0.5)["epsilon_shown"] < told["epsilon_shown"]
    assert shown_epsilon(references[:10], references)["epsilon_shown"] == 0, "members like all others show nothing"
    assert shown_epsilon(torch.full((10,), 2.0), references, 0.9)["epsilon_shown"] == 0


def test_what_is_shown_is_seldom_above_the_truth() -> None:
    """Members have a high score e^3 times as often as others, which is epsilon 3."""
    generator, shown = torch.Generator().manual_seed(0), []
    for _ in range(100):
        draws = torch.rand(2, 400, 2, generator=generator)
        scores = (draws[:, :, 0] < torch.tensor([[0.02 * math.e**3], [0.02]])).float() + draws[:, :, 1] / 9
        shown.append(shown_epsilon(scores[0, :100], scores[1])["epsilon_shown"])
    assert sum(value > 3 for value in shown) <= 5
    assert max(shown) > 0


def test_canaries_need_words() -> None:
    with pytest.raises(ConfigError, match="whole words"):
        draw_canaries([], 2, [0], 1, 1, 6, seed=0)
