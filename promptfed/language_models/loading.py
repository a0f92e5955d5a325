"""Language models by name: ``lm:minilm``, ``lm:gemma``, ``lm:FOLDER`` or ``lm:ORG/NAME`` of the hub."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from promptfed.backbones.device import QUANTIZED, pick_device, pick_dtype
from promptfed.errors import ConfigError, MissingPackageError, missing_object
from promptfed.language_models.model import LanguageModel
from promptfed.language_models.names import OBJECT, PREFIX, is_language_model
from promptfed.language_models.pretrained import Family, load_pretrained_of
from promptfed.prompt_template import PromptTemplate

FAMILIES: tuple[Family, ...] = ("causal", "masked", "encoder", "encoder-decoder")
LONGEST_SENTENCE = 256
"""Tokens that MiniLM was trained to read; a longer text is cut at its end, as sentence-transformers does."""


def load_language_model(
    backbone: str, form: PromptTemplate, *, device: str = "cpu", precision: str = "float32"
) -> LanguageModel:
    """Load a frozen language model.

    Args:
        backbone: Its name, ``lm:...``.
        form: How a text is put to it.
        device: "cpu", "cuda", "cuda:1" or "auto".
        precision: "float32", "bfloat16" or "float16"; "int8" or "int4" on CUDA with bitsandbytes, computed in bfloat16.

    Raises:
        ConfigError: The name, the device or the precision is unknown.
        BackboneError: The weights are not available, or are none of a language model.
    """
    name = backbone.removeprefix(PREFIX)
    if not is_language_model(backbone) or not name:
        raise ConfigError(f"backbone '{backbone}' is no language model: write lm:minilm, lm:gemma or lm:FOLDER")
    if backbone.startswith(OBJECT):
        raise missing_object("model", backbone)
    where, quantized = pick_device(device), precision if precision in QUANTIZED else None
    dtype = torch.bfloat16 if quantized else pick_dtype(precision)
    if quantized:
        check_quantization(precision, where, name)
    if name == "minilm":
        model, tokenizer = _minilm()
        return LanguageModel(backbone, form, model.to(where, dtype), tokenizer, "encoder")
    source = name
    if name == "gemma":
        from promptfed.language_models.gemma import converted

        source = str(converted())
    model, tokenizer, family = load_pretrained_of(source, dtype, where, families=FAMILIES, quantized=quantized)
    return LanguageModel(backbone, form, model, tokenizer, family)


def check_quantization(precision: str, device: torch.device, name: str) -> None:
    """Raise ConfigError if a model cannot be stored in 8 or 4 bits here."""
    if device.type != "cuda" or name == "minilm":
        what = "MiniLM is too small for it" if name == "minilm" else f"this runs on {device.type}"
        raise ConfigError(f"precision '{precision}' needs CUDA and a large model, and {what}: use --precision bfloat16")
    if find_spec("bitsandbytes") is None:
        raise MissingPackageError(f"precision '{precision}' needs bitsandbytes: pip install bitsandbytes accelerate")


def _minilm() -> tuple[Any, Any]:
    """Return MiniLM with its tokenizer as transformers has them."""
    from transformers import PreTrainedTokenizerFast

    from promptfed.backbones.minilm import load_minilm

    model, tokenizer = load_minilm()
    marks = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unk": "[UNK]"}
    names = {f"{name}_token": mark for name, mark in marks.items()}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST_SENTENCE, **names)
    return model, wrapped
