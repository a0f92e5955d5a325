"""A prefix of keys and values is PEFT's, and that of a text is the text itself: on tiny random models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from promptfed.errors import BackboneError
from promptfed.language_models.keys_values import as_cache, cache_name, keys_and_values

LAYERS, TEXT = 3, [5, 17, 33, 2]
ROWS, MASK = torch.tensor([[7, 8, 9, 10, 11], [3, 4, 5, 0, 0]]), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
}
KV_HEADS = {"llama": 2, "gemma3": 1, "bert": 4}


def tiny(kind: str) -> Any:
    """A frozen random model."""
    import transformers as t

    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "llama":
            model: Any = t.LlamaForCausalLM(t.LlamaConfig(**SIZES, num_key_value_heads=2))
        elif kind == "gemma3":
            kinds = ["sliding_attention", "full_attention", "sliding_attention"]
            more = {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 6, "layer_types": kinds}
            model = t.Gemma3ForCausalLM(t.Gemma3TextConfig(**SIZES, **more))
        else:
            model = t.BertModel(t.BertConfig(**SIZES, max_position_embeddings=64), add_pooling_layer=False)
    return model.eval().requires_grad_(False)


def read_behind(model: Any, prefix: Tensor, heads: int) -> Tensor:
    """Hidden states of the real tokens of ROWS behind ``prefix``."""
    n = len(prefix)
    mask = torch.cat([torch.ones(2, n, dtype=torch.int64), MASK], 1)
    more = {cache_name(model): as_cache(prefix, 2, LAYERS, heads), "use_cache": True}
    places = torch.arange(ROWS.shape[1]).expand(2, -1) + n
    output = model.base_model(input_ids=ROWS, attention_mask=mask, position_ids=places, **more)
    states: Tensor = output.last_hidden_state[MASK.bool()]
    return states


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_keys_and_values_of_a_text_are_the_text(kind: str) -> None:
    model = tiny(kind)
    prefix = keys_and_values(model.base_model, TEXT)
    whole = torch.cat([torch.tensor([TEXT] * 2), ROWS], 1)
    mask = torch.cat([torch.ones(2, len(TEXT), dtype=torch.int64), MASK], 1)
    expected = model.base_model(input_ids=whole, attention_mask=mask).last_hidden_state[:, len(TEXT) :][MASK.bool()]
    assert torch.allclose(read_behind(model, prefix, KV_HEADS[kind]), expected, rtol=0, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["llama", "gemma3", "bert"])
def test_any_prefix_reads_as_in_peft(kind: str) -> None:
    peft: Any = pytest.importorskip("peft")
    model = tiny(kind)
    prefix = keys_and_values(model.base_model, TEXT)
    prefix = prefix + torch.randn(prefix.shape, generator=torch.Generator().manual_seed(1))
    task = "FEATURE_EXTRACTION" if kind == "bert" else "CAUSAL_LM"
    with torch.random.fork_rng():
        wrapped = peft.get_peft_model(tiny(kind), peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=len(TEXT)))
    weight = wrapped.prompt_encoder.default.embedding.weight
    assert weight.shape == prefix.shape  # PEFT's layout
    with torch.no_grad():
        weight.copy_(prefix)
        output = wrapped.eval()(input_ids=ROWS, attention_mask=MASK, output_hidden_states=True)
    theirs = (output.last_hidden_state if kind == "bert" else output.logits)[MASK.bool()]
    states = read_behind(model, prefix, KV_HEADS[kind])
    ours = states if kind == "bert" else model.get_output_embeddings()(states)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_gradients_reach_a_prefix_and_a_model_without_keys_is_named() -> None:
    model = tiny("llama")
    prefix = keys_and_values(model.base_model, TEXT).requires_grad_()
    read_behind(model, prefix, 2).square().sum().backward()  # type: ignore[no-untyped-call]
    assert prefix.grad is not None
    assert (prefix.grad.abs().sum(1) > 0).all()

    class Recurrent:
        """Keeps nothing in the cache."""

        class config:  # noqa: N801
            model_type = "recurrent"

        def forward(self, cache: object = None) -> None: ...

        def __call__(self, **inputs: object) -> None: ...

    with pytest.raises(BackboneError, match="'recurrent' takes no prefix"):
        keys_and_values(Recurrent(), TEXT)
