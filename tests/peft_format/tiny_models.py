"""Tiny random models of four families, and what an insert does to their logits, worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from promptfed.language_models.insert import Insert

IDS = torch.tensor([[3, 14, 15, 92, 65, 35], [8, 97, 93, 23, 84, 62]])
DECODER_IDS = torch.tensor([[0, 5, 6], [0, 7, 8]])
N, WIDTH, LAYERS = 3, 32, 2


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=100, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64,
        )
    )  # fmt: skip


def gemma() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=100, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
            num_key_value_heads=1, head_dim=16, max_position_embeddings=64, sliding_window=16,
        )
    )  # fmt: skip


def bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(_bert_config(BertConfig))


def masked() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(_bert_config(BertConfig))


def _bert_config(kind: Any) -> Any:
    return kind(
        vocab_size=100, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=100, d_model=WIDTH, d_kv=8, num_heads=4, num_layers=LAYERS, d_ff=48, decoder_start_token_id=0
        )
    )


FAMILIES = {
    "llama": (llama, "causal"), "gemma": (gemma, "causal"), "bert": (bert, "encoder"), "masked": (masked, "masked"),
    "t5": (t5, "encoder-decoder"),
}  # fmt: skip
TARGETS = {"llama": ("q_proj", "v_proj"), "gemma": ("q_proj", "v_proj"), "t5": ("q", "v")}
FEEDFORWARD = {"llama": "down_proj", "gemma": "down_proj", "t5": "wo"}


def made(name: str) -> Any:
    """The model ``name`` with the same random weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return FAMILIES[name][0]().eval().requires_grad_(False)


def sizes(name: str, model: Any) -> Any:
    """What ``adapter_of`` asks of a language model."""
    matrices = {path: tuple(m.weight.shape) for path, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    kv_heads, head_size = {"llama": (2, 8), "gemma": (1, 16)}.get(name, (4, 8))
    return SimpleNamespace(
        family=FAMILIES[name][1], width=WIDTH, layers=LAYERS, kv_heads=kv_heads, head_size=head_size,
        matrices={path: shape for path, shape in matrices.items() if "lm_head" not in path}, model=model,
    )  # fmt: skip


def output(model: Any, **more: Any) -> Tensor:
    """Logits, or last hidden states of a model without a head."""
    if hasattr(model.config, "d_kv"):
        more["decoder_input_ids"] = DECODER_IDS
    result = model(**more)
    return result.logits if "logits" in result else result.last_hidden_state


def by_hand(model: Any, insert: Insert) -> Tensor:
    """The output for ``IDS`` with ``insert``: vectors put before the embeddings, a cache, matrices changed by hooks."""
    from transformers import DynamicCache

    vectors, more = model.get_input_embeddings()(IDS), {}
    if insert.soft is not None:
        vectors = torch.cat([insert.soft.expand(len(IDS), -1, -1), vectors], dim=1)
    if insert.prefix is not None:
        cache, config = DynamicCache(config=model.config), model.config
        heads = config.num_key_value_heads
        for layer, (keys, values) in enumerate(insert.prefix.view(N, LAYERS, 2, heads, -1).permute(1, 2, 3, 0, 4)):
            cache.update(keys.expand(len(IDS), -1, -1, -1), values.expand(len(IDS), -1, -1, -1), layer)
        more["past_key_values"] = cache
    with _hooks(model, insert):
        return output(model, inputs_embeds=vectors, **more)


@contextmanager
def _hooks(model: Any, insert: Insert) -> Iterator[None]:
    modules, handles = dict(model.named_modules()), []
    for path, terms in insert.low_rank.items():
        change = sum(term.scale * term.b @ term.a for term in terms)
        handles.append(modules[path].register_forward_hook(lambda m, x, y, change=change: y + x[0] @ change.T))
    for path, factors in insert.ia3.items():
        if factors.shape[0] == 1:
            handles.append(modules[path].register_forward_pre_hook(lambda m, x, f=factors: (x[0] * f[0],)))
        else:
            handles.append(modules[path].register_forward_hook(lambda m, x, y, f=factors: y * f[:, 0]))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
