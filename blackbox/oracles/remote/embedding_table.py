"""A model's token embeddings, read from its folder without its other weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptfed.backbones.base import hash_tensors
from promptfed.errors import BackboneError
from promptfed.language_models.tokens import Tokens
from promptfed.printable import LONGEST, printable
from promptfed.readers.json_reader import read_json
from promptfed.readers.tensors import MODELS, read_header

NAMES = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight",
    "shared.weight",
)  # fmt: skip
"""Endings of the table's name in the models there are (Llama, Qwen, Gemma, Mistral; GPT-2; BLOOM, Falcon; GPT-NeoX)."""
SCALED = ("gemma3", "gemma3_text", "gemma3n", "gemma3n_text")
"""Model types whose embeddings are the table times sqrt(dim) *before* the place where vectors are put in. Recalled from
vLLM's and transformers' code; Gemma 1 and 2 scale after it."""


class EmbeddingTable:
    """Token embeddings: ``embed(ids)`` returns the model's input vectors ``(len(ids), dim)`` float32."""

    def __init__(self, table: Tensor, tokens: Tokens, scale: float = 1.0) -> None:
        self.table, self.tokens, self.scale = table, tokens, scale
        self.dim = table.shape[1]

    @classmethod
    def read(cls, folder: Path) -> EmbeddingTable:
        """Read the table of a model's folder.

        Raises:
            BackboneError: The folder holds no tokenizer or no table of embeddings in safetensors.
        """
        from transformers import AutoConfig, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise BackboneError(
                f"no folder of a transformers model (it has no config.json), for oracle.embeddings or "
                f"--embeddings: '{printable(folder, LONGEST)}'"
            )
        try:
            config: Any = AutoConfig.from_pretrained(folder)
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise BackboneError(f"cannot read the tokenizer of {folder}: {' '.join(str(error).split())}") from error
        table = _table(folder)
        if not torch.isfinite(table).all():
            raise BackboneError(f"the token embeddings in {folder} are not all finite")
        scale = table.shape[1] ** 0.5 if config.model_type in SCALED else 1.0
        return cls(table, Tokens(tokenizer), scale)

    def embed(self, ids: Sequence[int]) -> Tensor:
        return self.table[list(ids)].float() * self.scale

    def std(self) -> float:
        """Return the standard deviation of the entries of the model's input vectors."""
        return float(self.table[: min(len(self.table), 20_000)].float().std()) * self.scale

    def sha256(self) -> str:
        return hash_tensors([("embeddings", self.table)])


def _files_by_tensor(index: Any) -> dict[str, str]:
    """Return tensor -> file, both plain names: an index leads to no other folder."""
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in names.values()
    ):
        raise ValueError("its index has no 'weight_map' of files in the same folder")
    return dict(names)


def _table(folder: Path) -> Tensor:
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    names: dict[str, str] = {}
    try:
        if index.is_file():
            names = _files_by_tensor(read_json(index))
        else:
            for file in sorted(folder.glob("*.safetensors")):
                names |= dict.fromkeys(sorted(read_header(file, MODELS)), file.name)
        candidates = [name for ending in NAMES for name in names if name.endswith(ending)]
        if not candidates:
            raise BackboneError(f"{folder} holds no token embeddings in safetensors (sought: {', '.join(NAMES)})")
        file = folder / names[candidates[0]]
        if candidates[0] not in read_header(file, MODELS):
            raise BackboneError(f"{file} does not hold '{candidates[0]}', as its index says")
        with safe_open(str(file), framework="pt") as tensors:
            table: Tensor = tensors.get_tensor(candidates[0])
    except (OSError, ValueError) as error:
        raise BackboneError(f"cannot read the token embeddings in {folder}: {error}") from error
    if table.dim() != 2 or not table.is_floating_point():
        raise BackboneError(f"the token embeddings in {folder} are {tuple(table.shape)} {table.dtype}, not a table")
    return table
