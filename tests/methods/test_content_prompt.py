"""The content prompt: what it starts as, its scores by hand, and what it recovers of planted structure."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState
from promptfed.tasks.recommend import HistoryItem
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split

from ..tiny_language_models import WIDTH, WORDS, client, setup

ITEMS = WORDS[:12]


def build(**options):
    return build_method("content_prompt", {"n_prompts": 8, **options}, setup("bert", classes=ITEMS, domains=("a",)))


def split(pairs):
    items = tuple(HistoryItem("", "", tuple(ITEMS[k] for k in history)) for history, _ in pairs)
    return Split(items, torch.tensor([target for _, target in pairs]))


def data(pairs):
    part = split(pairs)
    return ClientData(0, "a", tuple(range(12)), part, part, part)


def test_an_untrained_prompt_recommends_what_is_like_the_last_choices():
    method = build(last=2, decay=0.5)
    pairs = [((0, 1, 2), 5), ((3,), 4)]
    means = method.model.class_means(ITEMS)
    vectors = F.normalize(means - means.mean(0), dim=-1)
    users = torch.stack([(vectors[1] * 0.5 + vectors[2]) / 1.5, vectors[3]])
    expected = 20 * F.normalize(users, dim=-1) @ vectors.T
    scores = method.logits(method.init_shared(), NO_PROMPT, ITEMS, split(pairs))
    for row, (history, _) in enumerate(pairs):
        assert (scores[row, list(history)] == -1e4).all()
        rest = [k for k in range(12) if k not in history]
        torch.testing.assert_close(scores[row, rest], expected[row, rest], atol=1e-4, rtol=1e-4)


def test_keys_and_values_are_attended_to():
    method = build(last=1)
    draw = torch.Generator().manual_seed(2)
    keys, values = torch.randn(2, 8, WIDTH, generator=draw)
    prompt = PromptState({"keys": keys, "values": values, "log_scale": torch.tensor([math.log(7.0)])})
    scores = method.logits(prompt, NO_PROMPT, ITEMS, split([((4,), 5)]))
    vectors = method.vectors(ITEMS)
    user = vectors[4] + (vectors[4] @ keys.T).softmax(-1) @ values
    expected = 7 * F.normalize(user, dim=-1) @ vectors.T
    rest = [k for k in range(12) if k != 4]
    torch.testing.assert_close(scores[0, rest], expected[rest], atol=1e-4, rtol=1e-4)


def test_a_rule_that_likeness_does_not_show_is_learned():
    method = build(lr=0.05, local_epochs=60, last=1, n_prompts=16)
    pairs = [((k,), (k + 5) % 12) for k in range(12)]
    start = method.init_shared()
    before = (method.logits(start, NO_PROMPT, ITEMS, split(pairs)).argmax(1) == split(pairs).labels).float().mean()
    update, personal = method.train(Broadcast(1, start), data(pairs), NO_PROMPT)
    after = (
        (method.logits(update.shared, NO_PROMPT, ITEMS, split(pairs)).argmax(1) == split(pairs).labels).float().mean()
    )
    assert before < 0.4
    assert after > 0.8
    assert sorted(update.shared) == ["keys", "log_scale", "values"]
    assert not len(personal)


def test_examples_without_histories_are_refused():
    method = build()
    method.check_feasible([data([((0,), 1)])])
    with pytest.raises(ConfigError, match="use --task recommend"):
        method.check_feasible([client(0)])
