"""A federation that trains the highest layers only ends the same whether the lower ones read a text once or always."""

from __future__ import annotations

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.inserts.prefix import PREFIX
from promptfed.language_models.lower_layers import LowerLayers
from promptfed.method import METHODS

from ..tiny_language_models import client, setup
from .tiny_language import Rounds

TOP = {"lr": 0.05, "local_epochs": 2, "n_tokens": 4}
RUNS = {
    "prefix of a causal model": ("llama", "fedprefix", {**TOP, "layers": "top:1"}),
    "prefix of an encoder": ("bert", "fedprefix", {**TOP, "layers": "top:1"}),
    "frozen rest": ("llama", "fedpeptao", {**TOP, "layers": (1,), "rest": "frozen"}),
    "frozen rest by scores": ("bert", "fedpeptao", {**TOP, "layers": "score", "rest": "frozen"}),
    # Not q: with one position in the decoder its gradient is zero but for rounding, which Adam makes large.
    "factors of a decoder": ("t5", "fedit", {"lr": 0.05, "targets": ("decoder.block.1.layer.0.SelfAttention.v",)}),
    "factors of an encoder": ("t5", "fedit", {"lr": 0.05, "targets": ("encoder.block.1.layer.0.SelfAttention.q",)}),
}


def federation(name: str, method: str, *, remembers: bool = True, **options) -> Rounds:
    """Return a federation of two clients after two rounds."""
    kind, around = METHODS[method], setup(name)
    model = around.language_model
    if not remembers:
        model.lower = LowerLayers(model.model, 0)  # finds no layers
    rounds = Rounds(kind(kind.Config(**options), around), [client(0, (0, 1, 2)), client(1, (1, 2, 3))])
    rounds.run()
    rounds.run()
    return rounds


@pytest.mark.parametrize("case", RUNS)
def test_a_run_ends_the_same_and_reads_fewer_tokens(case):
    name, method, options = RUNS[case]
    one, other = (federation(name, method, remembers=remembers, **options) for remembers in (True, False))
    for tensor, whole in zip(one.shared.values(), other.shared.values(), strict=True):
        torch.testing.assert_close(tensor, whole, atol=2e-5, rtol=1e-4)  # Adam divides small gradients
    torch.testing.assert_close(one.scores(), other.scores(), atol=2e-5, rtol=1e-4)
    used, whole = (rounds.method.model.usage() for rounds in (one, other))
    assert used.model_rows == whole.model_rows
    if case != "frozen rest by scores":  # of two layers, the lower one is chosen
        assert used.model_tokens < 0.75 * whole.model_tokens


def test_a_prefix_of_the_highest_layers_is_fedpeptaos_of_these_with_a_frozen_rest():
    prefix = federation("llama", "fedprefix", layers="top:1", **TOP)
    peptao = federation("llama", "fedpeptao", layers="top:1", rest="frozen", **TOP)
    model = prefix.method.model
    assert prefix.shared[PREFIX].shape == (4, 2 * model.kv_heads * model.head_size)
    assert torch.equal(prefix.shared[PREFIX], peptao.shared[PREFIX])
    assert torch.equal(prefix.scores(), peptao.scores())


def test_a_prefix_of_the_highest_layers_is_exported_whole_and_begins_from_its_export():
    method = federation("llama", "fedprefix", layers="top:1", **TOP).method
    every = METHODS["fedprefix"](METHODS["fedprefix"].Config(**TOP), method.setup)
    start = method.init_shared()
    assert torch.equal(method.kind.peft_tensors(start)[PREFIX], every.init_shared()[PREFIX])
    insert = method.kind.insert(start)
    assert method.kind.start_from(insert) == start
    moved = every.kind.insert({PREFIX: every.init_shared()[PREFIX] + 1})
    with pytest.raises(ConfigError, match="other keys and values in layers that this method leaves alone"):
        method.kind.start_from(moved)


@pytest.mark.parametrize("method", ["fedprefix", "fedpeptao"])
def test_more_layers_than_there_are_and_none(method):
    kind = METHODS[method]
    with pytest.raises(ConfigError, match="'layers' is 'top:3', and 'lm:llama' has 2 layers: give top:2 or fewer"):
        kind(kind.Config(layers="top:3", **TOP), setup("llama")).init_shared()
    for wrong in ("top:0", "top:", "top:two", "bottom:1"):
        with pytest.raises(ValueError, match=r"give .*all"):
            kind.Config(layers=wrong)
