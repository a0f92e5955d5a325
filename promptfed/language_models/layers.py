"""What a model of transformers consists of: its linear layers by path, and the shape of its keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

USUAL_TARGETS = (
    ("q_proj", "v_proj"),
    ("query", "value"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("c_attn",),
    ("query_key_value",),
    ("qkv_proj",),
    ("Wqkv",),
    ("in_proj",),
)
"""Layers that PEFT changes by default, by how architectures name them."""


def matrices_of(model: Any) -> dict[str, tuple[int, int]]:
    """Return path -> (out, in) of every linear layer but the word head; GPT-2's Conv1D is one."""
    head = model.get_output_embeddings()
    shapes = {}
    for path, module in model.named_modules():
        if module is head or not path:
            continue
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            shapes[path] = (int(module.out_features), int(module.in_features))
        elif type(module).__name__ == "Conv1D" and module.weight.dim() == 2:
            width, out = module.weight.shape
            shapes[path] = (int(out), int(width))
    return shapes


def usual_targets(matrices: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the last parts of the paths that PEFT changes by default; empty for an architecture that none fits."""
    names = {path.rpartition(".")[2] for path in matrices}
    return next((targets for targets in USUAL_TARGETS if names.issuperset(targets)), ())


def attention_shape(config: Any) -> tuple[int, int, int]:
    """Return the number of layers, and the heads of keys and values and their size; 0 where a config has none."""
    text = config.get_text_config()
    layers = int(getattr(text, "num_hidden_layers", 0) or 0)
    heads = int(getattr(text, "num_attention_heads", 0) or 0)
    width = int(getattr(text, "hidden_size", 0) or 0)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    size = int(getattr(text, "head_dim", None) or getattr(text, "d_kv", None) or (width // heads if heads else 0))
    return layers, kv_heads, size
