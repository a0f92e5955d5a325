"""IA3: factors of 1 are the frozen model, training lowers the loss, and layers are named by the ends of their paths."""

from __future__ import annotations

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.method import METHODS
from promptfed.types import NO_PROMPT, Broadcast

from ..tiny_language_models import CLASSES, client, setup, split


def make(name="llama", **options):
    kind = METHODS["fedia3"]
    return kind(kind.Config(**options), setup(name))


@pytest.mark.parametrize("name", ["llama", "masked", "bert", "t5"])
def test_it_starts_as_the_frozen_model_and_training_lowers_the_loss(name):
    method = make(name, lr=0.1, local_epochs=4)
    shared = method.init_shared()
    plain = method.head.scores({}, method.kind.insert(shared), split().items, CLASSES)
    scores = method.model.template_scores("", split(), CLASSES)
    torch.testing.assert_close(plain, scores, atol=1e-5, rtol=1e-5)
    first, _ = method.train(Broadcast(1, shared), client(), NO_PROMPT)
    second, _ = method.train(Broadcast(2, first.shared), client(), NO_PROMPT)
    assert second.loss < first.loss
    method.model.verify_frozen()


def test_layers_can_be_named():
    method = make(scaled_outputs="v_proj", scaled_inputs="down_proj")
    assert {tuple(tensor.shape) for tensor in method.init_shared().values()} == {(16, 1), (1, 48)}
    with pytest.raises(ConfigError, match=r"'scaled_outputs' names 'w_proj'.*v_proj"):
        make(scaled_outputs="w_proj")
    with pytest.raises(ConfigError, match=r"both name 'model\.layers\.0\.mlp\.down_proj'"):
        make(scaled_outputs="down_proj", scaled_inputs="down_proj")
