"""Prefixes: they start as a hard prompt, their first token stays, and they are averaged."""

from __future__ import annotations

import pytest
import torch

from promptfed.errors import BackboneError, ConfigError
from promptfed.inserts.prefix import PREFIX
from promptfed.method import METHODS
from promptfed.types import NO_PROMPT, Broadcast

from ..tiny_language_models import CLASSES, client, setup, split


def make(name="llama", **options):
    kind = METHODS["fedprefix"]
    return kind(kind.Config(**{"n_tokens": 4, **options}), setup(name))


def test_before_training_it_is_the_words_as_a_hard_prompt():
    method = make(init_text="a good film")
    model = method.model
    words = [*model.tokens.first, *model.tokenizer.convert_tokens_to_ids(["a", "good", "film"])]
    rows = [model.writer.row(item) for item in split().items]
    hidden = model.hidden([[*words, *row.ids] for row in rows], at=[[row.at + len(words)] for row in rows])[:, 0]
    expected = model.word_logits(hidden, model.label_ids(CLASSES))
    scores = method.logits(method.init_shared(), NO_PROMPT, CLASSES, split())
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "masked", "bert"])
def test_training_lowers_the_loss_and_leaves_the_first_token(name):
    method = make(name, optimizer="adamw", weight_decay=0.1, lr=0.05, local_epochs=4)
    shared = method.init_shared()
    first, _ = method.train(Broadcast(1, shared), client(), NO_PROMPT)
    second, _ = method.train(Broadcast(2, first.shared), client(), NO_PROMPT)
    assert second.loss < first.loss
    assert torch.equal(second.shared[PREFIX][0], shared[PREFIX][0])
    assert (second.shared[PREFIX][1:] != shared[PREFIX][1:]).all()
    method.model.verify_frozen()


def test_other_starts_and_what_cannot_be_trained():
    starts = [make(init=init).init_shared()[PREFIX] for init in ("text", "vocab", "random")]
    assert len({tuple(start.shape) for start in starts}) == 1
    assert not torch.equal(starts[0], starts[1])
    assert starts[2].std() < 0.03
    with pytest.raises(ConfigError, match="'n_tokens' is 1 and the first token is frozen"):
        make(n_tokens=1)
    with pytest.raises(BackboneError, match="takes no prefix"):
        make("t5")
