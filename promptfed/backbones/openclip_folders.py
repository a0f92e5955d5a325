"""open_clip models from a folder with ``open_clip_config.json``, and the tokenizers that models name.

The config may be a stranger's. It is read as data; transformers is told never to run code that a repository holds, and
of the options for its tokenizer only those are taken that choose how a text is cleaned.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from promptfed.backbones.openclip_weights import fill, find_settings, quiet, read_weights
from promptfed.errors import BackboneError, FormatError, reason
from promptfed.printable import printable
from promptfed.readers.json_reader import read_json

CONFIG = "open_clip_config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
CLEANING = frozenset({"clean", "strip_sep_token", "language"})
"""Options of a tokenizer that a config may choose."""
LENGTH = 77
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SHOWN = 300


def read_config(folder: Path) -> dict[str, Any]:
    """Return the ``model_cfg`` of the folder's config.

    Raises:
        FormatError: It is missing, no JSON, or describes no model.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FormatError(f"it holds no {CONFIG}")
    content = read_json(path)
    config = content.get("model_cfg") if isinstance(content, dict) else None
    parts = [config.get(part) if isinstance(config, dict) else None for part in ("text_cfg", "vision_cfg")]
    if not isinstance(config, dict) or not all(isinstance(part, dict) for part in parts):
        raise FormatError(f"{CONFIG} has no model_cfg with text_cfg and vision_cfg")
    for name in ("hf_model_name", "hf_tokenizer_name"):
        place = config["text_cfg"].get(name)
        if not isinstance(place, str | None):
            raise FormatError(f"{CONFIG} says {name} '{printable(place, 100)}', which is no name")
    return config


def create_from_folder(
    config: Mapping[str, Any], folder: Path, options: Mapping[str, str], precision: str
) -> nn.Module:
    """Return the model of ``config`` with the weights in ``folder``.

    Args:
        config: From ``read_config``.
        folder: Where the weights lie.
        options: From ``split_options``.
        precision: A word of open_clip's.

    Raises:
        FormatError: The folder holds no weights.
        OSError: A file cannot be read.
        ValueError: The weights do not fit; the message lists all differences.
    """
    import open_clip

    tensors, is_archive = read_weights(folder)
    settings = find_settings("", folder, options, is_archive)
    built: dict[str, Any] = deepcopy(dict(config))
    text, vision = built["text_cfg"], built["vision_cfg"]
    if settings.quick_gelu is not None:
        built["quick_gelu"] = settings.quick_gelu
    if text.get("hf_model_name"):
        text |= {"hf_model_name": _inside(folder, text["hf_model_name"]), "hf_model_pretrained": False}
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False
    with torch.random.fork_rng(devices=[]), quiet():  # building draws numbers, which the weights then replace
        model: Any = _empty(built, precision)
    fill(model, tensors, is_archive)
    usual = {**vars(open_clip.transform.PreprocessCfg()), "size": model.visual.image_size}
    open_clip.model.set_model_preprocess_cfg(model, {**usual, **settings.preprocess})
    return model  # type: ignore[no-any-return]


def check_encoder(name: str, config: Mapping[str, Any], folder: Path | None = None) -> None:
    """Check that the config of a text tower of transformers is here, or can be had from the hub.

    Raises:
        BackboneError: It cannot, or it needs code of its repository.
    """
    encoder = config["text_cfg"].get("hf_model_name")
    if not encoder:
        return
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(_inside(folder, encoder), trust_remote_code=False)
    except Exception as error:  # transformers and the hub raise many kinds
        raise BackboneError(
            f"backbone '{printable(name, SHOWN)}' needs the config of its text tower '{printable(encoder, 100)}', "
            f"which is not cached and could not be fetched ({reason(error)}); where there is a network: "
            f"hf download {printable(encoder, 100)} config.json"
        ) from error


def load_tokenizer(
    name: str, config: Mapping[str, Any], option: str | None = None, folder: Path | None = None, repository: str = ""
) -> Any:
    """Return the tokenizer of the model ``config``.

    Args:
        name: The backbone, for errors.
        config: The model's config.
        option: A folder that the user names instead.
        folder: The folder of the model, which may hold its tokenizer too.
        repository: Where the folder is from, if it is from the hub.

    Raises:
        BackboneError: It is not cached and cannot be fetched, or does not load.
    """
    from open_clip.tokenizer import SimpleTokenizer

    text = config["text_cfg"]
    limit, named = int(text.get("context_length") or LENGTH), text.get("hf_tokenizer_name")
    cleaning = text.get("tokenizer_kwargs") or {}
    if not isinstance(cleaning, dict) or set(cleaning) - CLEANING:
        shown = printable(", ".join(sorted(set(map(str, cleaning)) - CLEANING)), 100)
        raise BackboneError(
            f"backbone '{printable(name, SHOWN)}': its config gives its tokenizer the option {shown}; only "
            f"{', '.join(sorted(CLEANING))} are taken from a config"
        )
    if option is None and not named:
        return SimpleTokenizer(context_length=limit, **cleaning)
    place: str = str(Path(option).expanduser()) if option is not None else named
    if option is None and folder is not None and any((folder / file).is_file() for file in TOKENIZER_FILES):
        place = place if repository and place != repository else str(folder)
    return _of_transformers(name, place, limit, text.get("tokenizer_mode"), cleaning, option is not None)


# ------------------------------------------------------------------------------------------------- internals


def _of_transformers(
    name: str, place: str, limit: int, mode: str | None, cleaning: Mapping[str, Any], is_option: bool
) -> Any:
    from open_clip.tokenizer import HFTokenizer

    modes = {} if mode is None else {"tokenizer_mode": mode}
    try:
        return HFTokenizer(place, context_length=limit, trust_remote_code=False, **modes, **cleaning)
    except Exception as error:  # transformers, the hub and sentencepiece raise many kinds
        shown, short = printable(name, SHOWN), printable(place, 200)
        if is_option or Path(place).exists():
            raise BackboneError(
                f"backbone '{shown}': '{short}' does not load as a tokenizer of transformers: {reason(error)}"
            ) from error
        raise BackboneError(
            f"backbone '{shown}' needs the tokenizer '{short}' of the Hugging Face hub, which is not cached and could "
            f"not be fetched ({reason(error)}); where there is a network run `hf download {short} --include "
            "'*token*' '*.json' '*.model' --local-dir FOLDER`, then write ?tokenizer=FOLDER behind the weights"
        ) from error


def _inside(folder: Path | None, encoder: str) -> str:
    """Return the path of the encoder's config if the model's folder holds it, else the name as it is."""
    inner = None if folder is None else folder / encoder
    return str(inner) if inner is not None and inner.is_dir() else encoder


def _empty(config: dict[str, Any], precision: str) -> nn.Module:
    """Return the model of ``config`` in ``precision``, with numbers that do not matter."""
    from open_clip.model import CLIP, CustomTextCLIP, convert_weights_to_lp
    from open_clip.transformer import LayerNormFp32

    is_custom = config.pop("custom_text", False) or bool(config["text_cfg"].get("hf_model_name"))
    has_bias, is_timm = config["text_cfg"].get("proj_bias"), config["vision_cfg"].get("timm_model_name")
    dtype = DTYPES.get(precision)
    # open_clip cannot lower a text projection with a bias beside an image tower of its own: all is lowered alike.
    is_pure = dtype is not None and has_bias and not is_timm
    model: nn.Module = (CustomTextCLIP if is_custom else CLIP)(**config, cast_dtype=None if is_pure else dtype)
    if dtype is None:
        return model
    if not (is_pure or is_timm):
        convert_weights_to_lp(model, dtype)
        return model
    model.to(dtype)
    for part in model.modules():
        if isinstance(part, LayerNormFp32):
            part.float()
    return model
