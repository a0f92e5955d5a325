"""Prompt encoders: they start from words, are averaged as weights, and are exported as the prompt that they make."""

from __future__ import annotations

import torch

from promptfed.aggregators.mean import Mean
from promptfed.method import METHODS
from promptfed.types import NO_PROMPT, Broadcast

from ..tiny_language_models import CLASSES, client, setup, split


def make(method="fedptuning", name="llama", **options):
    kind = METHODS[method]
    return kind(kind.Config(n_tokens=3, **options), setup(name))


def test_before_training_it_is_fedprompt_with_the_same_words():
    ours, theirs = make(), make("fedprompt")
    torch.testing.assert_close(
        ours.logits(ours.init_shared(), NO_PROMPT, CLASSES, split()),
        theirs.logits(theirs.init_shared(), NO_PROMPT, CLASSES, split()),
        atol=1e-5,
        rtol=1e-5,
    )
    assert ours.init_shared() == make().init_shared() != make(init="random").init_shared()


def test_a_round_of_one_client_is_that_client_and_training_lowers_the_loss():
    for name in ("llama", "bert"):
        method = make(name=name, head="linear", network="lstm" if name == "bert" else "mlp", local_epochs=6)
        shared = method.init_shared()
        first, personal = method.train(Broadcast(1, shared), client(), NO_PROMPT)
        assert {"embedding.weight", "head.weight"} <= set(first.shared)
        assert personal == NO_PROMPT
        merged, _ = Mean(Mean.Config()).apply(shared, [first], NO_PROMPT)
        assert merged == first.shared
        second, _ = method.train(Broadcast(2, merged), client(), NO_PROMPT)
        assert second.loss < first.loss, name


def test_what_is_exported_gives_the_same_scores():
    method, plain = make(), make("fedprompt")
    shared = method.train(Broadcast(1, method.init_shared()), client(), NO_PROMPT)[0].shared
    exported = plain.logits(method.kind.peft_tensors(shared), NO_PROMPT, CLASSES, split())
    torch.testing.assert_close(exported, method.logits(shared, NO_PROMPT, CLASSES, split()), atol=1e-6, rtol=1e-5)
