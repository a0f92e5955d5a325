"""States of texts on disk: read once, and again where the text or the model is another one."""

from __future__ import annotations

import pytest
import torch

from promptfed.backbones.features import FeatureCache
from promptfed.cache_entries import cache_entries
from promptfed.examples.base import TextItem
from promptfed.language_models.kept_states import KeptStates

from ..tiny_language_models import FORM, TEXTS, WIDTH, language_model

ITEMS = [TextItem(text) for text in TEXTS]


@pytest.fixture
def kept(tmp_path):
    """``kept(name)``: states of that model, as a new process sees them."""
    return lambda name="bert", **form: KeptStates(
        language_model(name, FORM.model_copy(update=form)), FeatureCache(tmp_path / "features", 10**6)
    )


def test_a_second_caller_gets_the_same_bits_and_reads_nothing(kept, tmp_path):
    first, second = kept(), kept()
    states = first.of(ITEMS)
    torch.testing.assert_close(states, first.model.states(ITEMS), atol=1e-6, rtol=1e-5)
    assert torch.equal(second.of(list(reversed(ITEMS))), states.flip(0))
    assert second.model.usage().model_rows == 0
    assert {entry.kind for entry in cache_entries(tmp_path)} == {"text-features"}
    assert second.of([]).shape == (0, WIDTH)


def test_a_changed_text_alone_is_read_again(kept):
    kept().of(ITEMS)
    second = kept()
    second.of([*ITEMS[1:], TextItem("the film was bad"), TextItem("the film was bad")])
    assert second.model.usage().model_rows == 1


def test_another_model_or_another_template_reads_again(kept):
    usual, changed = "{{ prompt }} {{ text }} it was", "{{ prompt }} {{ text }} ."
    kept("llama", template=usual).of(ITEMS)
    other, template = kept("gpt2", template=usual), kept("llama", template=changed)
    same = kept("llama", template=usual)
    for states in (other, template, same):
        states.of(ITEMS)
    assert [states.model.usage().model_rows for states in (other, template, same)] == [4, 4, 0]


def test_without_room_on_disk_nothing_is_kept(tmp_path):
    for _ in range(2):
        states = KeptStates(language_model("bert"), FeatureCache(tmp_path / "features", 0))
        assert states.of(ITEMS).shape == (4, WIDTH)
        assert states.model.usage().model_rows == 4
