"""Write an adapter as a folder that PEFT loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from promptfed.files.export_folder import ExportKind, write_export_folder
from promptfed.peft_format.adapter import Adapter
from promptfed.peft_format.config import SOFT_TYPES
from promptfed.peft_format.names import CONFIG, HEAD, README, WEIGHTS

KIND = ExportKind("an", "adapter", CONFIG, frozenset({CONFIG, WEIGHTS, README, HEAD}))
FIELDS = {
    "prompt": ("num_virtual_tokens", "num_transformer_submodules", "token_dim"),
    "PREFIX_TUNING": ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim"),
    "LORA": ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "fan_in_fan_out"),
    "IA3": ("target_modules", "feedforward_modules"),
}
"""What is written of each kind beside the fields that all have."""
FIXED: dict[str, dict[str, Any]] = {
    "PROMPT_TUNING": {"prompt_tuning_init": "RANDOM"},  # TEXT would have PEFT load a tokenizer
    "PREFIX_TUNING": {"prefix_projection": False},
    "LORA": {"bias": "none", "lora_dropout": 0.0, "use_rslora": False, "use_dora": False, "init_lora_weights": True},
    "IA3": {"init_ia3_weights": True, "fan_in_fan_out": False},
}


def adapter_files(adapter: Adapter, head: Mapping[str, Tensor] | None = None) -> dict[str, bytes]:
    """Return file name -> content of an adapter's folder, without its README; the same adapter gives the same bytes.

    Args:
        adapter: The adapter.
        head: Tensors of a head that PEFT knows nothing of; they stand in a file of their own.
    """
    files = {
        CONFIG: (json.dumps(_fields(adapter), indent=2, sort_keys=True, allow_nan=False) + "\n").encode(),
        WEIGHTS: save(dict(adapter.tensors), {"format": "pt"}),
    }
    if head:
        files[HEAD] = save({name: tensor.contiguous() for name, tensor in head.items()})
    return files


def write_adapter(folder: Path, files: Mapping[str, bytes], *, overwrite: bool = False) -> Path:
    """Write the files of an adapter whole or not at all. A folder with other files in it is never removed.

    Args:
        folder: The folder to write.
        files: What ``adapter_files`` returned, and a README if there is one.
        overwrite: Whether to replace an adapter that the folder holds.

    Returns:
        ``folder``.

    Raises:
        BundleError: ``folder`` is in the way, or the disk refuses.
    """
    write_export_folder(folder, files, KIND, overwrite)
    return folder


# ------------------------------------------------------------------------------------------------- internals


def _fields(adapter: Adapter) -> dict[str, Any]:
    config = adapter.config
    kind = config.peft_type
    values = {name: getattr(config, name) for name in FIELDS["prompt" if kind in SOFT_TYPES else kind]}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    if kind == "LORA":
        for name in ("rank_pattern", "alpha_pattern"):
            values[name] = {path: _number(value) for path, value in (values[name] or {}).items()}
        values["lora_alpha"] = _number(config.lora_alpha)
    return {
        **FIXED.get(kind, {}),
        **{name: value for name, value in values.items() if value is not None},
        "peft_type": kind,
        "task_type": config.task_type,
        "base_model_name_or_path": config.base_model_name_or_path,
        "inference_mode": True,
    }


def _number(value: float) -> float:
    return int(value) if value == int(value) else value
