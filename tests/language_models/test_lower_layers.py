"""Layers below all that is trained read a text once, and what comes of it is what it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptfed.language_models.insert import NO_INSERT, Factors, Insert
from promptfed.language_models.lower_layers import LowerLayers

from ..tiny_language_models import language_model, split

WORDS = [2, 9, 14, 30]
LAYERS = 3


def rows_of(model):
    return [model.writer.row(item).ids for item in split().items]


def random_prefix(model, seed=1):
    prefix = model.keys_and_values(WORDS)
    return prefix + 0.5 * torch.randn(prefix.shape, generator=torch.Generator().manual_seed(seed))


def states(model, insert):
    """Return what answers for the texts: at the last token, at the decoder's first, or the mean."""
    rows = rows_of(model)
    if model.family == "encoder":
        return model.hidden(rows, insert)
    at = [[0] if model.family == "encoder-decoder" else [len(row) - 1] for row in rows]
    return model.hidden(rows, insert, at)[:, 0]


def counted(model, path):
    """Return a list to which a row count is added whenever a module computes."""
    calls: list[int] = []
    modules = dict(model.model.named_modules())
    modules[path].register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    return calls


FIRST_LAYERS = {
    "llama": "model.layers.0.mlp",
    "gemma": "model.layers.0.mlp",
    "gpt2": "transformer.h.0.mlp",
    "bert": "encoder.layer.0.output",
    "masked": "bert.encoder.layer.0.output",
}


@pytest.mark.parametrize("lowest", [1, 2])
@pytest.mark.parametrize("name", FIRST_LAYERS)
def test_states_and_gradients_behind_a_prefix_are_the_same_and_layers_below_compute_once(name, lowest):
    whole, model = language_model(name, layers=LAYERS), language_model(name, layers=LAYERS)
    prefix = random_prefix(model).requires_grad_()
    expected = states(whole, Insert(prefix=prefix))
    (slopes,) = torch.autograd.grad(expected.square().sum(), prefix)
    insert = Insert(prefix=prefix, frozen_below=lowest)
    calls = counted(model, FIRST_LAYERS[name])
    for _ in range(2):
        found = states(model, insert)
        (gradient,) = torch.autograd.grad(found.square().sum(), prefix)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
        columns = prefix.shape[1] // LAYERS * lowest
        torch.testing.assert_close(gradient[:, columns:], slopes[:, columns:], atol=1e-5, rtol=1e-5)
        assert (gradient[:, :columns] == 0).all()
        done = len(calls)
    assert done == len(calls) > 0
    assert not any("forward" in module.__dict__ for module in model.model.modules())


T5_FACTORS = {1: "encoder.block.1.layer.0.SelfAttention.q", 3: "decoder.block.0.layer.1.EncDecAttention.v"}


@pytest.mark.parametrize("lowest", T5_FACTORS)
def test_an_encoder_decoder_reads_from_the_lowest_changed_layer_on(lowest):
    model, path = language_model("t5", layers=LAYERS), T5_FACTORS[lowest]
    out, width = model.matrices[path]
    stream = torch.Generator().manual_seed(3)
    a = torch.randn(2, width, generator=stream).requires_grad_()
    insert = Insert(low_rank={path: (Factors(a, torch.randn(out, 2, generator=stream)),)})
    assert model.lower.lowest(insert) == lowest
    found = states(model, insert)
    (gradient,) = torch.autograd.grad(found.square().sum(), a)
    assert model.lower.bytes == sum(map(len, rows_of(model))) * model.width * 4
    model.lower = LowerLayers(model.model, 0)  # finds no layers
    expected = states(model, insert)
    (slopes,) = torch.autograd.grad(expected.square().sum(), a)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, slopes, atol=1e-5, rtol=1e-5)


def test_states_do_not_depend_on_what_was_read_before_or_with_it():
    one, other = language_model("llama"), language_model("llama")
    insert = Insert(prefix=random_prefix(one), frozen_below=1)
    rows = rows_of(one)
    at = [[len(row) - 1] for row in rows]
    for k in reversed(range(len(rows))):
        one.hidden([rows[k]], insert, [at[k]])
    assert torch.equal(one.hidden(rows, insert, at), other.hidden(rows, insert, at))


def test_a_prefix_that_differs_below_is_another_one_and_above_is_not():
    model = language_model("llama")
    prefix = random_prefix(model)
    half = prefix.shape[1] // 2
    above, below = (torch.cat([prefix[:, :half] + d, prefix[:, half:] + 1 - d], 1) for d in (0, 1))
    first = states(model, Insert(prefix=prefix, frozen_below=1))
    read = counted(model, FIRST_LAYERS["llama"])
    states(model, Insert(prefix=above, frozen_below=1))
    assert not read
    expected = states(language_model("llama"), Insert(prefix=below))
    torch.testing.assert_close(states(model, Insert(prefix=below, frozen_below=1)), expected, atol=1e-6, rtol=1e-6)
    assert len(read) == 4
    torch.testing.assert_close(states(model, Insert(prefix=prefix, frozen_below=1)), first, atol=0, rtol=0)


def test_what_is_remembered_has_a_bound_and_the_rest_is_computed_each_time():
    model = language_model("llama")
    rows = rows_of(model)
    insert = Insert(prefix=random_prefix(model), frozen_below=1)
    expected = states(model, insert)
    model.lower = LowerLayers(model.model, model.layers, most_bytes=len(rows[0]) * model.width * 4)
    read = counted(model, FIRST_LAYERS["llama"])
    states(model, insert)
    del read[:]
    assert torch.equal(states(model, insert), expected)
    assert len(read) == 3
    assert model.lower.bytes == model.lower.most_bytes


def test_tokens_that_skip_layers_count_less():
    model = language_model("llama")
    insert = Insert(prefix=random_prefix(model), frozen_below=1)
    tokens = sum(map(len, rows_of(model)))
    before = model.usage()
    states(model, insert)
    first = model.usage()
    states(model, insert)
    assert (first - before).model_tokens == tokens
    assert (model.usage() - first).model_tokens == tokens - tokens // 2
    assert (model.usage() - first).model_rows == 4


def test_what_no_layer_can_be_left_out_of():
    model = language_model("llama")
    prefix = model.keys_and_values(WORDS)
    assert model.lower.lowest(NO_INSERT) == 0
    assert model.lower.lowest(Insert(prefix=prefix)) == 0
    assert model.lower.lowest(Insert(prefix=prefix, frozen_below=1, soft=torch.zeros(1, model.width))) == 0
    factors = (Factors(torch.zeros(1, 2), torch.zeros(2, 1)),)
    top = Insert(low_rank={"model.layers.1.self_attn.q_proj": factors})
    assert model.lower.lowest(top) == 1
    assert model.lower.lowest(replace(top, ia3={"model.layers.0.mlp.down_proj": torch.ones(1, 2)})) == 0
    assert model.lower.lowest(Insert(low_rank={"elsewhere": factors})) == 0


def test_a_model_whose_upper_layers_need_more_of_the_lower_ones_is_read_whole():
    model, whole = language_model("llama"), language_model("llama")
    for each in (model, whole):
        first, second = each.model.model.layers
        first.mlp.register_forward_hook(lambda module, inputs, output: setattr(module, "past", 100 * output.sum(-1)))
        second.mlp.register_forward_pre_hook(lambda module, inputs, low=first.mlp: inputs[0] + low.past[..., None])
    insert = Insert(prefix=random_prefix(model), frozen_below=1)
    assert torch.equal(states(model, insert), states(whole, replace(insert, frozen_below=0)))
    assert model.lower.bytes == 0
