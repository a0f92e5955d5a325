"""Language models of transformers from a folder or the hub: safetensors only, no code of theirs is run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from promptfed.backbones.base import freeze
from promptfed.errors import BackboneError, reason
from promptfed.language_models.remote_code import FLAG, is_trusted
from promptfed.readers.tensors import LIBRARY_MODELS, read_header

Family = Literal["causal", "masked", "encoder", "encoder-decoder"]
"""What a model reads and predicts: the next word, a masked one, a decoder's, or none."""
CLASSES: dict[Family, str] = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "encoder": "AutoModel",
    "encoder-decoder": "AutoModelForSeq2SeqLM",
}
"""Family -> the class of transformers that loads it."""


def load_pretrained(name: str, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any, bool]:
    """Load the causal or masked model called ``name`` (a folder, else a hub name).

    Returns:
        The model, its fast tokenizer, and whether it is a masked one.

    Raises:
        BackboneError: It is not available, is no language model, or lacks the head that predicts words.
    """
    model, tokenizer, family = load_pretrained_of(name, dtype, device, families=("causal", "masked"))
    return model, tokenizer, family == "masked"


def load_pretrained_of(
    name: str, dtype: torch.dtype, device: torch.device, *, families: Sequence[Family], quantized: str | None = None
) -> tuple[Any, Any, Family]:
    """Load the model called ``name`` (a folder, else a hub name).

    Args:
        name: The folder or the hub name.
        dtype: The type of its weights.
        device: Where it goes.
        families: Those that will do.
        quantized: "int8" or "int4": the linear layers are stored so by bitsandbytes, on a CUDA device.

    Returns:
        The frozen model, its fast tokenizer, and its family.

    Raises:
        BackboneError: It is not available, is of no such family, or lacks the head that predicts words.
    """
    import transformers

    folder = Path(name).expanduser()
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or folder.exists()):
        raise BackboneError(f"'{name}' is not a folder with a model of transformers (config.json, *.safetensors)")
    source = str(folder) if folder.is_dir() else name
    with quiet(), torch.random.fork_rng(devices=[]):  # building draws random numbers, which the weights then replace
        try:
            for weights in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
                read_header(weights, LIBRARY_MODELS)
            trust = {"trust_remote_code": is_trusted()}
            config = transformers.AutoConfig.from_pretrained(source, **trust)
            family = family_of(config, families)
            kind = getattr(transformers, CLASSES[family])
            how = {**dtype_option(dtype), **quantization_option(quantized, dtype, device), **trust}
            model, notes = kind.from_pretrained(
                source, config=config, use_safetensors=True, output_loading_info=True, **how
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **trust)
        except Exception as error:  # transformers, the hub's client and safetensors each raise their own
            raise BackboneError(_why(name, folder.is_dir(), error)) from error
    lacking = sorted(key for key in notes["missing_keys"] if family != "encoder" or "pooler" not in key)
    if lacking:
        raise BackboneError(
            f"'{name}' is no whole language model: it lacks {', '.join(lacking[:3])}; a model without the head that "
            "predicts words (a sentence encoder, say) cannot be an oracle"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise BackboneError(
            f"'{name}' has no fast tokenizer: save it with tokenizer.json, as transformers >= 4.40 does"
        )
    model = freeze(model)
    return model if quantized else model.to(device), tokenizer, family


def quantization_option(quantized: str | None, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return ``from_pretrained``'s options for a model whose linear layers are stored in 8 or 4 bits; none for None."""
    if quantized is None:
        return {}
    from transformers import BitsAndBytesConfig

    if quantized == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config, "device_map": {"": device}}


def family_of(config: Any, families: Sequence[Family]) -> Family:
    """Return the family of a model by its config. Raises ValueError if it is none of ``families``."""
    if getattr(config, "is_encoder_decoder", False):
        family: Family = "encoder-decoder"
    elif "encoder" in families and all(name.endswith("Model") for name in config.architectures or ("",)):
        family = "encoder"
    else:
        family = "masked" if is_masked(config) else "causal"
    if family not in families:
        raise ValueError(f"{config.model_type} is an {family}, which is not supported: take a causal or masked one")
    return family


def is_masked(config: Any) -> bool:
    """Return whether a model predicts the word at a mask, rather than the next one."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    named = " ".join(config.architectures or ())
    if "MaskedLM" in named:
        return True
    if "CausalLM" in named or "LMHead" in named or "ConditionalGeneration" in named:
        return False
    causal, masked = (
        config.model_type in names for names in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    )
    if not causal and not masked:
        raise ValueError(f"{config.model_type} is no language model")
    return masked and not getattr(config, "is_decoder", False)


def longest_input(model: Any, tokenizer: Any, limit: int) -> int:
    """Return the number of tokens that the model can read, at most ``limit``."""
    limits = [limit, int(min(tokenizer.model_max_length, limit))]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions:
        limits.append(positions)
        for module in model.modules():
            # RoBERTa and its like count positions from behind the padding id.
            if isinstance(module, torch.nn.Embedding) and len(module.weight) == positions and module.padding_idx:
                limits.append(positions - module.padding_idx - 1)
    return min(limits)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings, which would run into the run's own display."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def dtype_option(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return ``from_pretrained``'s option for the width of numbers: transformers renamed it."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": dtype}


def _why(name: str, is_folder: bool, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return f"model '{name}' brings code of its own, which is not run: if you trust it, add {FLAG}"
    if is_folder:
        return (
            f"the folder '{name}' does not load as a language model ({reason(error)}); it needs config.json, "
            "tokenizer.json and *.safetensors, as save_pretrained writes them"
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON")
    fix = "unset HF_HUB_OFFLINE" if offline else "check the name and the network"
    return (
        f"language model '{name}' is neither a folder nor to be had from the hub ({reason(error)}); {fix}, or run "
        f"`hf download {name}` where there is a network and give local:FOLDER"
    )
