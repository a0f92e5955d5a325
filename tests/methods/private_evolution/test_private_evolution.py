"""Private evolution: votes and selection by hand, and that no private word ever travels."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.examples.base import TextItem
from promptfed.methods.private_evolution import Evolution, PrivateEvolution
from promptfed.prompt_state import PromptState
from promptfed.prompts.synthetic_texts import synthetic_texts, written_texts
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split

from ...tiny_language_models import CLASSES, client, setup

SMALL = {"texts": 6, "keep": 2, "length": 4, "pool": 12}


def build(**options) -> PrivateEvolution:
    return build_method("private_evolution", {**SMALL, **options}, setup("bert", domains=("a", "b")))


@pytest.fixture(scope="module")
def method() -> PrivateEvolution:
    return build()


def states(method: PrivateEvolution, texts: list[str]) -> torch.Tensor:
    return F.normalize(method.model.states([TextItem(text) for text in texts]), dim=-1)


def test_a_client_sends_the_histogram_of_nearest_texts_of_the_same_class(method: PrivateEvolution) -> None:
    shared, data = method.init_shared(), client()
    update, personal = method.train(Broadcast(1, shared), data, NO_PROMPT)
    candidates = states(method, written_texts(shared))
    by_hand = torch.zeros(12)
    for item, label in zip(data.train.items, data.train.labels.tolist(), strict=True):
        own = candidates[6 * label : 6 * label + 6] @ states(method, [item.text])[0]
        by_hand[6 * label + int(own.argmax())] += 1 / len(data.train)
    assert set(update.shared) == {"votes"}
    torch.testing.assert_close(update.shared["votes"], by_hand)
    assert update.shared["votes"].norm() <= 1, "the sensitivity of a client"
    assert personal is NO_PROMPT


def test_the_best_stay_and_the_rest_are_their_variations(method: PrivateEvolution) -> None:
    shared = method.init_shared()
    votes = torch.tensor([0.0, 0.3, 0.0, 0.1, 0.0, 0.05, *[-0.1] * 6])  # of the second class only noise is left
    state = Evolution(Mean(Mean.Config()), method).next(shared, votes, 1)
    before, after = written_texts(shared), written_texts(state)
    assert after[:2] == [before[1], before[3]]
    assert state["weights"].tolist()[:6] == pytest.approx([0.3, 0.1, 0, 0, 0, 0])
    assert after[6:8] == before[6:8], "nobody voted, so the first of those that were kept stay"
    assert state["weights"].tolist()[6:8] == [1, 1]
    assert not state["votes"].any()
    parents = {*before[1].split(), *before[3].split()}
    near = {method.pool.words[k] for word in parents for k in method.pool.near_word(word)}
    for text in after[2:6]:
        assert set(text.split()) <= parents | near
        assert len(text.split()) == 4


def test_a_vote_below_the_threshold_is_noise() -> None:
    method = build(threshold=0.5)
    votes = torch.tensor([1.0, 0.4, 0.6, 0.1, 0.2, 0.3] * 2)
    state = Evolution(Mean(Mean.Config()), method).next(method.init_shared(), votes, 1)
    assert state["weights"].tolist() == pytest.approx([1.0, 0.6, 0, 0, 0, 0] * 2)


def test_the_server_draws_the_same_variations_again(method: PrivateEvolution) -> None:
    rule, shared = method.server_side(Mean(Mean.Config())), method.init_shared()
    updates = [method.train(Broadcast(1, shared), data, NO_PROMPT)[0] for data in (client(0), client(1, [0, 1, 2]))]
    one, server = rule.apply(shared, updates, rule.init(shared))
    other, _ = rule.apply(shared, updates, rule.init(shared))
    later, _ = rule.apply(shared, updates, server)
    assert one.sha256() == other.sha256()
    assert one.sha256() != later.sha256(), "each round has a stream of its own"
    assert int(server["evolution.round"]) == 1
    merged = (4 * updates[0].shared["votes"] + 3 * updates[1].shared["votes"]) / 7
    kept = merged.reshape(2, 6).sort(dim=1, descending=True).values[:, :2]
    torch.testing.assert_close(one["weights"].reshape(2, 6)[:, :2], kept)


def test_classes_are_scored_by_the_weighted_mean_of_kept_texts(method: PrivateEvolution) -> None:
    shared = method.init_shared()
    weights = torch.tensor([0.5, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    shared = PromptState({**shared, "weights": weights})
    texts = states(method, written_texts(shared))
    means = F.normalize(torch.stack([0.5 * texts[0] + 0.25 * texts[2], texts[7]]), dim=-1)
    data = client()
    by_hand = 20 * states(method, [item.text for item in data.train.items]) @ means.T
    scores = method.logits(shared, NO_PROMPT, CLASSES, data.train)
    torch.testing.assert_close(scores / scores.abs().max(), by_hand / by_hand.abs().max())
    one = method.logits(shared, NO_PROMPT, CLASSES[1:], data.train)
    torch.testing.assert_close(one[:, 0], scores[:, 1])


def test_private_words_never_appear(method: PrivateEvolution) -> None:
    canaries = tuple(TextItem(f"zebra{k} quagga{k} 0176 5551234") for k in range(10))
    split = Split(canaries, torch.tensor([0, 1] * 5))
    data = ClientData(0, "a", (0, 1), split, split, split)
    shared, rule = method.init_shared(), method.server_side(Mean(Mean.Config()))
    server = rule.init(shared)
    for round in range(1, 4):
        update, _ = method.train(Broadcast(round, shared), data, NO_PROMPT)
        shared, server = rule.apply(shared, [update], server)
    words = {word for text in written_texts(shared) for word in text.split()}
    assert words <= set(method.pool.words)
    assert not any(word.startswith(("zebra", "quagga")) for word in words)


def test_the_texts_that_were_voted_for_are_given_away_best_first(method: PrivateEvolution) -> None:
    shared = method.init_shared()
    weights = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.0, 0.0, *[0.0] * 5, 0.1])
    texts = written_texts(shared)
    pairs = synthetic_texts(PromptState({**shared, "weights": weights}), CLASSES)
    assert pairs == [(texts[3], "negative"), (texts[1], "negative"), (texts[11], "positive")]


def test_there_must_be_a_place_for_variations() -> None:
    with pytest.raises(ConfigError, match=r"leaves no place for variations: use --set method.keep=5 or less$"):
        build(keep=6)
