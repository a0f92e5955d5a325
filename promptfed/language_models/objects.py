"""A language model passed as an object of a Python program."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from promptfed.backbones.text_tokenizers import is_tokenizer
from promptfed.errors import ConfigError
from promptfed.language_models.loading import FAMILIES
from promptfed.language_models.model import LanguageModel
from promptfed.language_models.names import OBJECT, PREFIX
from promptfed.language_models.pretrained import Family, family_of
from promptfed.printable import printable
from promptfed.prompt_template import PromptTemplate


def is_language_object(model: Any) -> bool:
    """Return whether ``model`` is a LanguageModel, or a tuple in which there is a text model of transformers."""
    return isinstance(model, LanguageModel) or any(map(_is_text_model, _parts(model)))


def language_model_of(model: Any, device: str = "") -> LanguageModel:
    """Return ``model`` as a language model; it learns later how the texts of a task are put.

    Args:
        model: A LanguageModel; or a model of transformers with its fast tokenizer, as a tuple in any order.
        device: Where a model of transformers is moved; empty: it stays where it is.

    Raises:
        ConfigError: It is nothing of the kind.
    """
    if isinstance(model, LanguageModel):
        rest = model.name.removeprefix(PREFIX).removeprefix(OBJECT.removeprefix(PREFIX))
        return LanguageModel(OBJECT + rest, model.form, model.model, model.tokenizer, model.family)
    parts = _parts(model)
    texts = [part for part in parts if _is_text_model(part)]
    tokenizers = [part for part in parts if not _is_text_model(part) and is_tokenizer(part)]
    if len(texts) != 1 or len(tokenizers) != 1 or len(parts) != 2:
        raise ConfigError(
            f"model is of type {printable(type(model).__name__)}: give the tuple (model of transformers, its "
            "tokenizer), or a LanguageModel"
        )
    (inner,), (tokenizer,) = texts, tokenizers
    name = printable(type(inner).__name__)
    if hasattr(inner, "peft_config"):
        raise ConfigError(f"model is a {name}, which PEFT has changed: give the model below it (.unload())")
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(f"the tokenizer of model {name} is not a fast one: give AutoTokenizer.from_pretrained(...)")
    if device:
        inner.to(device)
    return LanguageModel(OBJECT + name, PromptTemplate(), inner, tokenizer, _family(inner, name))


def _parts(model: Any) -> tuple[Any, ...]:
    return tuple(model) if isinstance(model, tuple | list) else (model,)


def _is_text_model(part: Any) -> bool:
    """Return whether ``part`` is a model of transformers that reads text alone."""
    has_images = hasattr(part, "visual") or hasattr(part, "vision_model")
    return isinstance(part, torch.nn.Module) and hasattr(part, "get_input_embeddings") and not has_images


def _family(model: Any, name: str) -> Family:
    """Return the family by the model's class: the config of one that was built by hand names none."""
    config = model.config
    facts = SimpleNamespace(
        architectures=[type(model).__name__],
        model_type=getattr(config, "model_type", name),
        is_encoder_decoder=getattr(config, "is_encoder_decoder", False),
        is_decoder=getattr(config, "is_decoder", False),
    )
    try:
        family = family_of(facts, FAMILIES)
    except ValueError as error:
        raise ConfigError(f"model {name} cannot be used: {error}") from None
    if family != "encoder" and model.get_output_embeddings() is None:
        raise ConfigError(
            f"model {name} lacks the head that predicts words: give a ...ForCausalLM, ...ForMaskedLM or "
            "...ForConditionalGeneration, or a bare encoder"
        )
    return family
