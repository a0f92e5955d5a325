"""A language model reads a prefix, and IA3's factors, as PEFT's forward does, and a text's prefix as the text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from promptfed.errors import BackboneError
from promptfed.inserts.ia3 import DEFAULT_TARGETS, IA3
from promptfed.inserts.low_rank import matching_paths
from promptfed.language_models.insert import Insert
from promptfed.language_models.layer_states import layer_states

from ..tiny_language_models import language_model, split, transformer

WORDS = [2, 9, 14, 30]


def answers(model, insert=None, reserve=0):
    """Rows of texts, and the states that answer for them: at the last token, at the mask, or the mean."""
    rows = [model.writer.row(item, reserve=reserve) for item in split().items]
    at = None if model.family == "encoder" else [[row.at] for row in rows]
    states = model.hidden([row.ids for row in rows], insert or Insert(), at)
    return rows, states if at is None else states[:, 0]


def random_prefix(model):
    prefix = model.keys_and_values(WORDS)
    return prefix + 0.5 * torch.randn(prefix.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_the_prefix_of_a_text_is_the_text_in_front(name):
    model = language_model(name)
    rows, states = answers(model, Insert(prefix=model.keys_and_values(WORDS)))
    in_front = model.hidden([[*WORDS, *row.ids] for row in rows], at=[[row.at + len(WORDS)] for row in rows])[:, 0]
    torch.testing.assert_close(states, in_front, atol=2e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "gemma", "bert"])
def test_a_prefix_reads_as_in_peft(name):
    peft: Any = pytest.importorskip("peft")
    model = language_model(name)
    prefix = random_prefix(model)
    task = "FEATURE_EXTRACTION" if name == "bert" else "CAUSAL_LM"
    config = peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=len(WORDS))
    with torch.random.fork_rng(devices=[]):
        theirs = peft.get_peft_model(transformer(name).eval(), config).eval()
    rows, states = answers(model, Insert(prefix=prefix))
    with torch.no_grad():
        theirs.prompt_encoder.default.embedding.weight.copy_(prefix)
        for row, state in zip(rows, states, strict=True):
            output = theirs(input_ids=torch.tensor([row.ids]), attention_mask=torch.ones(1, len(row.ids)))
            if name == "bert":
                torch.testing.assert_close(state, output.last_hidden_state[0].mean(0), atol=1e-6, rtol=0)
            else:
                torch.testing.assert_close(model.word_logits(state, None), output.logits[0, -1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["llama", "masked", "bert"])
def test_rows_do_not_see_each_other_and_gradients_reach_every_token_of_a_prefix(name):
    model = language_model(name)
    prefix = random_prefix(model).requires_grad_()
    rows, states = answers(model, Insert(prefix=prefix))
    at = None if name == "bert" else [[rows[2].at]]
    alone = model.hidden([rows[2].ids], Insert(prefix=prefix), at)
    torch.testing.assert_close(states[2], alone.flatten(0, -2)[0], atol=2e-6, rtol=1e-5)
    states.square().sum().backward()
    assert (prefix.grad.abs().sum(1) > 0).all()
    model.verify_frozen()
    assert not model.model.base_model._forward_pre_hooks


def test_an_encoder_decoder_takes_no_prefix():
    with pytest.raises(BackboneError, match="type 't5' takes no prefix"):
        language_model("t5").keys_and_values(WORDS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2", "bert"])
def test_factors_read_as_in_peft(name):
    peft: Any = pytest.importorskip("peft")
    model = language_model(name)
    outputs, inputs = DEFAULT_TARGETS[model.model.config.model_type]
    kind = IA3(model.matrices, matching_paths(model.matrices, outputs), matching_paths(model.matrices, inputs))
    draw = torch.Generator().manual_seed(3)
    values = {key: 1 + 0.3 * torch.randn(t.shape, generator=draw) for key, t in kind.start().items()}
    theirs = peft.get_peft_model(transformer(name).eval(), peft.IA3Config()).eval()  # PEFT's own targets
    live = {key.replace(".ia3_l", ".ia3_l.default"): tensor for key, tensor in values.items()}
    assert not theirs.load_state_dict(live, strict=False).unexpected_keys
    assert {key for key, tensor in theirs.named_parameters() if tensor.requires_grad} == set(live)
    rows, states = answers(model, kind.insert(values))
    with torch.no_grad():
        for row, state in zip(rows, states, strict=True):
            output = theirs(input_ids=torch.tensor([row.ids]), attention_mask=torch.ones(1, len(row.ids)))
            if name == "bert":
                torch.testing.assert_close(state, output.last_hidden_state[0].mean(0), atol=1e-6, rtol=0)
            else:
                torch.testing.assert_close(model.word_logits(state, None), output.logits[0, -1], atol=2e-6, rtol=0)


def test_states_of_layers_are_those_of_each_text_alone():
    model = language_model("llama")
    rows = [model.writer.row(item).ids for item in split().items]
    together = layer_states(model, rows)
    assert len(together) == model.layers
    for k, row in enumerate(rows):
        alone = model.model.model(torch.tensor([row]), output_hidden_states=True).hidden_states
        for layer, states in enumerate(together):
            torch.testing.assert_close(states[k, : len(row)], alone[layer + 1][0], atol=1e-6, rtol=1e-5)
            assert (states[k, len(row) :] == 0).all()
