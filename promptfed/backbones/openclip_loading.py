"""Loading of the backbones ``open_clip:...``: by architecture and tag or file, from a folder, from the hub.

Files are read as data. Nothing that a folder or a repository of the hub names is imported or run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from promptfed.backbones.device import pick_device, pick_dtype
from promptfed.backbones.hub import fetched_folder
from promptfed.backbones.openclip import PREFIX, OpenClipBackbone
from promptfed.backbones.openclip_folders import (
    CONFIG,
    check_encoder,
    create_from_folder,
    load_tokenizer,
    read_config,
)
from promptfed.backbones.openclip_weights import create_from_file, split_options, weights_path
from promptfed.backbones.text_tower_kinds import kind_of
from promptfed.backbones.text_towers import refusal
from promptfed.errors import BackboneError, PromptFedError, reason, unknown_name
from promptfed.printable import printable

SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""open_clip's own words for the precisions."""
FOLDER, HUB = "local-dir:", "hf-hub:"
"""open_clip's own words for a folder with its config, and for a repository of the Hugging Face hub."""
FETCHED = (CONFIG, "*.json", "*.txt", "*.model")
"""Files of a repository that are fetched beside its weights."""
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of the weights in a repository; the second only where there is no first."""
TOKENIZER = "tokenizer"
"""The option behind a tag or path that names another tokenizer."""
SHOWN = 300


def load_openclip(name: str, *, device: str = "cpu", precision: str = "float32") -> OpenClipBackbone:
    """Load the backbone ``open_clip:MODEL/WEIGHTS``, ``open_clip:local-dir:FOLDER`` or ``open_clip:hf-hub:ORG/NAME``.

    WEIGHTS is a tag that open_clip lists for MODEL, or the path of a checkpoint or of a folder with one, with
    ``?mean=0.5&std=0.5&resize=squash&interpolation=bilinear&activation=quick_gelu`` as needed. FOLDER holds
    ``open_clip_config.json`` and the weights. ``?tokenizer=FOLDER`` names the folder of another tokenizer. Checkpoints,
    TorchScript archives too, are loaded without running code.

    Raises:
        ConfigError: A name is unknown.
        BackboneError: The weights or the tokenizer are not cached while offline, the weights are missing, of another
            shape, or not plain tensors, or the model cannot be prompted.
    """
    pick_device(device)
    pick_dtype(precision)
    rest = name.removeprefix(PREFIX)
    if rest.startswith(FOLDER):
        return _load_folder(name, rest.removeprefix(FOLDER), device, precision)
    if rest.startswith(HUB):
        return _load_repository(name, rest.removeprefix(HUB), device, precision)
    architecture, _, weights = rest.partition("/")

    import open_clip

    if architecture not in open_clip.list_models():
        raise unknown_name("open_clip model", architecture, open_clip.list_models())
    known_tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not weights:
        raise BackboneError(
            f"backbone '{name}' names no weights: write {PREFIX}{architecture}/WEIGHTS with the path of a checkpoint "
            f"or one of {', '.join(known_tags) or '(open_clip lists none)'}"
        )
    config = open_clip.get_model_config(architecture) or {}
    _check_kind(name, config)
    path, (place, options) = weights_path(weights), split_options(weights)
    tag = None if path is not None else open_clip.get_pretrained_cfg(architecture, place)
    if path is None and not tag:
        raise unknown_name(f"open_clip weights for {architecture}", place, known_tags)
    check_encoder(name, config)
    tokenizer = load_tokenizer(name, config, options.get(TOKENIZER))
    if path is not None:
        model = _from_file(name, architecture, path, options, precision)
    else:
        model = _from_tag(name, architecture, place, tag or {}, options, precision)
    backbone = OpenClipBackbone(name, model, tokenizer, device=device, precision=precision)
    if path is not None:
        backbone.library_options = _library_options(config, model)
    return backbone


def folder_of(name: str) -> Path | None:
    """Return the file or folder of this machine that the backbone ``name`` is read from; None if there is none."""
    rest = name.removeprefix(PREFIX)
    if rest.startswith(FOLDER):
        return Path(split_options(rest.removeprefix(FOLDER))[0]).expanduser()
    return None if rest.startswith(HUB) else weights_path(rest.partition("/")[2])


# ------------------------------------------------------------------------------------------------- internals


def _load_folder(name: str, weights: str, device: str, precision: str) -> OpenClipBackbone:
    place, options = split_options(weights)
    folder = Path(place).expanduser()
    if not place or not folder.is_dir():
        raise BackboneError(
            f"backbone '{printable(name, SHOWN)}': there is no folder '{printable(place, SHOWN)}'; give one with "
            f"{CONFIG} and open_clip_model.safetensors, as open_clip.push_to_hf_hub.save_for_hf writes it"
        )
    return _from_folder(name, folder, options, device, precision)


def _from_folder(
    name: str, folder: Path, options: Mapping[str, str], device: str, precision: str, repository: str = ""
) -> OpenClipBackbone:
    try:
        config = read_config(folder)
        _check_kind(name, config)
        check_encoder(name, config, folder)
        tokenizer = load_tokenizer(name, config, options.get(TOKENIZER), folder, repository)
        model = create_from_folder(config, folder, options, SHORT[precision])
    except BackboneError:
        raise
    except Exception as error:  # open_clip, timm and torch each raise their own for a config that does not fit
        raise BackboneError(
            f"backbone '{printable(name, SHOWN)}': '{printable(folder, SHOWN)}' does not load as a model of open_clip: "
            f"{reason(error)}"
        ) from error
    backbone = OpenClipBackbone(name, model, tokenizer, device=device, precision=precision)
    if set(options) - {TOKENIZER}:
        backbone.library_options = _library_options(config, model)
    return backbone


def _load_repository(name: str, rest: str, device: str, precision: str) -> OpenClipBackbone:
    repository, options = split_options(rest)
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise BackboneError(
            f"backbone '{printable(name, SHOWN)}' names no repository of the hub: write {PREFIX}{HUB}ORG/NAME, or "
            f"{PREFIX}{FOLDER}FOLDER for a folder of this machine"
        )
    folder = fetched_folder(
        name,
        repository,
        [(*FETCHED, weights) for weights in WEIGHTS[:2]],
        lambda folder: (folder / WEIGHTS[0]).exists(),
        trouble="is not in the hub's cache and could not be fetched",
        prefix=PREFIX + FOLDER,
    )
    return _from_folder(name, folder, options, device, precision, repository)


def _library_options(config: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return what ``open_clip.create_model_and_transforms`` does not take from the name and the weights."""
    from open_clip.transform import PreprocessCfg
    from open_clip.transformer import QuickGELU

    usual, images = vars(PreprocessCfg()), model.visual.preprocess_cfg
    options: dict[str, Any] = {}
    for name in ("mean", "std", "interpolation", "resize_mode"):
        value = tuple(images[name]) if isinstance(images[name], list | tuple) else images[name]
        if value != usual[name]:
            options[f"image_{name}"] = value
    if not config.get("quick_gelu") and any(isinstance(part, QuickGELU) for part in model.modules()):
        options["force_quick_gelu"] = True
    return options


def _check_kind(name: str, config: Mapping[str, Any]) -> None:
    """Raise BackboneError if the text tower of ``config`` cannot be prompted, before anything is fetched."""
    kind = kind_of(config)
    if kind.refusal:
        raise refusal(name, kind.name, kind.refusal)


def _from_file(name: str, architecture: str, path: Path, options: Mapping[str, str], precision: str) -> nn.Module:
    """Return the model with the weights in the file or folder ``path``.

    Raises:
        BackboneError: The weights do not fit; the message lists all that is wrong.
    """
    if not path.exists():
        raise BackboneError(
            f"backbone '{printable(name, SHOWN)}': checkpoint file '{printable(path, SHOWN)}' does not exist; "
            "check the path"
        )
    try:
        return create_from_file(architecture, path, options, SHORT[precision])
    except BackboneError:
        raise
    except Exception as error:  # open_clip and torch each raise their own for tensors that do not fit
        raise BackboneError(
            f"backbone '{printable(name, SHOWN)}': '{printable(path, SHOWN)}' does not load as weights of "
            f"{architecture}: {reason(error)}; give a state dict saved by torch.save or safetensors for exactly this "
            "architecture"
        ) from error


def _from_tag(
    name: str, architecture: str, tag: str, about: dict[str, Any], options: Mapping[str, str], precision: str
) -> nn.Module:
    """Return the model with the weights of ``tag``.

    Building draws random numbers first; the global generator is restored.

    Raises:
        BackboneError: They are not cached and cannot be fetched, do not load, or an option does not go with a tag.
    """
    import open_clip

    if set(options) - {TOKENIZER}:
        raise BackboneError(
            f"backbone '{printable(name, SHOWN)}': behind a tag may stand ?{TOKENIZER}=FOLDER only; the tag says the "
            "rest itself"
        )
    _fetch(name, about)
    try:
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = open_clip.create_model(
                architecture,
                pretrained=tag,
                precision=SHORT[precision],
                # Plain architectures with tags trained on QuickGELU give wrong features unless it is switched on.
                force_quick_gelu=bool(about.get("quick_gelu", False)),
                weights_only=True,
            )
    except PromptFedError:
        raise
    except Exception as error:  # torch, safetensors and pickle each raise their own for a file that does not fit
        raise BackboneError(
            f"backbone '{name}': the weights '{tag}' do not load as those of {architecture}: {reason(error)}"
        ) from error
    return model


def _fetch(name: str, tag: dict[str, Any]) -> None:
    """Download the weights of ``tag`` into open_clip's cache.

    Raises:
        BackboneError: That fails, as it does offline.
    """
    from open_clip.pretrained import download_pretrained

    try:
        download_pretrained(tag)
    except Exception as error:  # the hub raises many kinds, from connection errors to missing files
        raise BackboneError(
            f"the weights of backbone '{name}' are not cached and could not be downloaded; is this machine offline? "
            f"({reason(error)}) The backbones 'tiny' and 'lit' need no download."
        ) from error
