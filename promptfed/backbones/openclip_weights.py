"""Weights of open_clip models from files: reading them, and finding the settings that belong to them.

A file of weights does not say how images are prepared or which activation it was trained with; a tag of open_clip
does. So a file takes the settings that all tags of its architecture share, a folder those of its
``open_clip_config.json``, and ``?mean=0.5&activation=quick_gelu`` behind the path overrides both. A note in the log
names each setting that none of these decides.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from promptfed.errors import BackboneError, FormatError, reason
from promptfed.printable import printable
from promptfed.readers.files import MEGABYTE
from promptfed.readers.json_reader import read_json
from promptfed.readers.tensors import MODELS, read_header
from promptfed.readers.torch_files import STATE_KEYS, Module, named_tensors, read_torch

LOG = logging.getLogger(__name__)
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
USUAL_NAMES = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors",
    "open_clip_pytorch_model.bin", "pytorch_model.bin",
)  # fmt: skip
LARGEST = 40_000 * MEGABYTE
WRAPPERS = ("module.", "model.", "_orig_mod.", "state_dict.", "clip.")
"""Prefixes that trainers put before every name."""
ACTIVATIONS, RESIZES = ("gelu", "quick_gelu"), ("shortest", "longest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest")
OPTIONS = ("mean", "std", "resize", "interpolation", "activation", "tokenizer")
NOT_OF_THE_MODEL = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Numbers that OpenAI's archives hold beside the weights."""


@dataclass(frozen=True)
class Settings:
    """Image preparation (the known fields of open_clip's PreprocessCfg), and the activation."""

    preprocess: Mapping[str, Any] = field(default_factory=dict)
    quick_gelu: bool | None = None


def split_options(weights: str) -> tuple[str, dict[str, str]]:
    """Split ``"PATH?mean=0.5&resize=squash"`` into the path and the options.

    A file whose name holds "?" is taken as it is.

    Raises:
        BackboneError: An option is unknown.
    """
    path, mark, text = weights.rpartition("?")
    if not mark or Path(weights).expanduser().exists():
        return weights, {}
    options = dict(part.partition("=")[::2] for part in text.split("&"))
    for name, value in options.items():
        if name not in OPTIONS or not value:
            raise BackboneError(
                f"weights '{printable(weights, 200)}': unknown option '{printable(name, 40)}'; behind the path may "
                f"stand ?{'=...&'.join(OPTIONS)}=..."
            )
    return path, options


def weights_path(weights: str) -> Path | None:
    """Return the file or folder that ``weights`` names (``~`` is the home folder), None if it is a tag."""
    place = split_options(weights)[0]
    path = Path(place).expanduser()
    looks_like_one = any(mark in place for mark in "/\\~") or path.suffix in ENDINGS
    return path if looks_like_one or path.exists() else None


def find_settings(architecture: str, path: Path, options: Mapping[str, str], is_openai: bool) -> Settings:
    """Return the settings that belong to the weights in ``path``.

    They come from ``options``, else from the folder's own config, else from what all tags of the architecture agree on.
    A warning in the log names the rest.

    Args:
        architecture: A name of open_clip.
        path: The file or folder of weights.
        options: From ``split_options``.
        is_openai: The weights are an archive as OpenAI published them.
    """
    import open_clip

    explicit = _given(options)
    tags = {
        tag: open_clip.get_pretrained_cfg(architecture, tag)
        for tag in open_clip.list_pretrained_tags_by_model(architecture)
    }
    if is_openai and "openai" in tags:
        tags = {"openai": tags["openai"]}
    preprocess: dict[str, Any] = {}
    unsure: list[str] = []
    for name in ("mean", "std", "interpolation", "resize_mode"):
        values = {_hashable(tag.get(name)) for tag in tags.values()} - {None}
        if len(values) == 1:
            preprocess[name] = values.pop()
        elif values and name not in explicit.preprocess:
            unsure.append(name)
    activations = {bool(tag.get("quick_gelu")) for tag in tags.values()}
    quick_gelu = activations.pop() if len(activations) == 1 else None
    if activations and explicit.quick_gelu is None:
        unsure.append("activation")
    from_config = _folders_own(path)
    if from_config.preprocess:
        unsure = [name for name in unsure if name not in from_config.preprocess]
    if from_config.quick_gelu is not None:
        quick_gelu, unsure = from_config.quick_gelu, [name for name in unsure if name != "activation"]
    if unsure:
        LOG.warning(
            "the weights in %s do not say their %s, and open_clip's tags of %s differ in it: CLIP's usual values and "
            "the architecture's activation are taken; say it behind the path, such as %s?activation=quick_gelu",
            printable(path), " and ".join(unsure), architecture, printable(path.name),
        )  # fmt: skip
    preprocess = {**preprocess, **from_config.preprocess, **explicit.preprocess}
    return Settings(preprocess, _first(explicit.quick_gelu, quick_gelu))


def read_weights(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Read the tensors in a file or folder; no code in the file is run.

    Returns:
        Tensors by the names of the model, and whether they are a TorchScript archive of OpenAI's kind.

    Raises:
        FormatError: The file holds no weights.
        OSError: It cannot be read.
    """
    file = _file_in(path) if path.is_dir() else path
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        names = read_header(file, MODELS)
        try:
            with safe_open(file, "pt") as archive:
                return unwrapped({name: archive.get_tensor(name) for name in names}), False
        except SafetensorError as error:
            raise FormatError(f"'{printable(file)}' is damaged: {reason(error)}") from error
    content = read_torch(file, LARGEST)
    tensors = _state_dict(content, depth=3)
    if tensors is None:
        raise FormatError(f"'{printable(file)}' holds no tensors by name, at the top or under {', '.join(STATE_KEYS)}")
    return unwrapped(tensors), isinstance(content, Module)


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes that trainers put before every name, and OpenAI's numbers about the model."""
    while True:
        prefix = next((mark for mark in WRAPPERS if tensors and all(name.startswith(mark) for name in tensors)), "")
        if not prefix:
            return {name: tensor for name, tensor in tensors.items() if name not in NOT_OF_THE_MODEL}
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def create_from_file(architecture: str, path: Path, options: Mapping[str, str], precision: str) -> nn.Module:
    """Return the open_clip model ``architecture`` with the weights in ``path``.

    Args:
        architecture: A name of open_clip.
        path: The file or folder of weights.
        options: From ``split_options``.
        precision: A word of open_clip's.

    Raises:
        FormatError: The file holds no weights.
        OSError: The file cannot be read.
        ValueError: The weights do not fit; the message lists all differences.
    """
    import open_clip

    tensors, is_archive = read_weights(path)
    settings = find_settings(architecture, path, options, is_archive)
    changes: dict[str, Any] = {} if settings.quick_gelu is None else {"quick_gelu": settings.quick_gelu}
    parameters = inspect.signature(open_clip.create_model).parameters
    plain = {name: False for name in ("pretrained_text", "pretrained_hf") if name in parameters}
    with torch.random.fork_rng(devices=[]), quiet():  # building draws numbers, which the weights then replace
        model: nn.Module = open_clip.create_model(architecture, precision=precision, **plain, **changes)
    fill(model, tensors, is_archive)
    visual: Any = model.visual
    open_clip.model.set_model_preprocess_cfg(model, {**visual.preprocess_cfg, **settings.preprocess})
    return model


# ------------------------------------------------------------------------------------------------- internals


def fill(model: nn.Module, tensors: dict[str, Tensor], is_archive: bool) -> None:
    """Put ``tensors`` into ``model``, in the forms of open_clip's older files too.

    Raises:
        ValueError: They differ from the model's.
    """
    from open_clip import factory

    for name in ("convert_state_dict",):  # of other libraries
        if hasattr(factory, name):
            tensors = dict(getattr(factory, name)(model, tensors))
    if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
        tensors = dict(factory.convert_to_custom_text_state_dict(tensors))
    expected = model.state_dict()
    for name in ("logit_scale", "logit_bias"):  # a number or one of a list
        if name in tensors and name in expected and tensors[name].numel() == expected[name].numel() == 1:
            tensors[name] = tensors[name].reshape(expected[name].shape)
    extra = {name for name in tensors if name not in expected}
    if is_archive:  # holds every attribute that is a tensor
        tensors = {name: tensor for name, tensor in tensors.items() if name not in extra}
    else:
        tensors = {name: t for name, t in tensors.items() if not (name in extra and name.endswith("position_ids"))}
    for name in ("resize_pos_embed", "resize_text_pos_embed"):
        if hasattr(factory, name) and not _differences(tensors.keys(), expected.keys()):
            getattr(factory, name)(tensors, model)
    shapes = [
        f"'{name}' is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    problems = _differences(tensors.keys(), expected.keys())
    if shapes:
        problems.append(f"{'; '.join(shapes[:3])}{f' ({len(shapes)} such)' if len(shapes) > 3 else ''}")
    if problems:
        raise ValueError("; ".join(problems))
    model.load_state_dict(tensors)


def _differences(names: Any, model_names: Any) -> list[str]:
    problems = []
    for fault, group in (("lacks", model_names - names), ("has an unknown", names - model_names)):
        if group:
            problems.append(
                f"it {fault} {', '.join(repr(printable(name, 100)) for name in sorted(group)[:3])} ({len(group)} such)"
            )
    return problems


def _state_dict(value: Any, depth: int) -> Mapping[str, Tensor] | None:
    """Return the first named tensors in ``value`` or under one of its usual names."""
    if isinstance(value, Module):
        return named_tensors(value)
    if not isinstance(value, dict):
        return None
    tensors = {str(name): tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
    inner = (_state_dict(value[name], depth - 1) for name in STATE_KEYS if depth and isinstance(value.get(name), dict))
    return next((state for state in inner if state), tensors or None)


def _file_in(folder: Path) -> Path:
    files = sorted(path for path in folder.iterdir() if path.suffix in ENDINGS)
    usual = [path for name in USUAL_NAMES for path in files if path.name == name]
    candidates = usual[:1] or [path for path in files if path.suffix == ".safetensors"] or files
    if len(candidates) != 1:
        listing = ", ".join(printable(path.name, 60) for path in candidates[:3]) or f"none of {', '.join(ENDINGS)}"
        raise FormatError(f"folder '{printable(folder)}' holds {listing}: name the file of weights itself")
    return candidates[0]


def _folders_own(path: Path) -> Settings:
    """Return the settings in ``open_clip_config.json`` beside the weights, as the hub's folders have it."""
    config = (path if path.is_dir() else path.parent) / "open_clip_config.json"
    if not config.is_file():
        return Settings()
    content = read_json(config)
    parts = [content.get(name) if isinstance(content, dict) else None for name in ("preprocess_cfg", "model_cfg")]
    images, model = (part if isinstance(part, dict) else {} for part in parts)
    texts = {name: str(images[name]) for name in ("mean", "std") if name in images}
    texts = {name: text.strip("[]() ") for name, text in texts.items()}
    texts |= {
        option: str(images[name])
        for option, name in (("interpolation",) * 2, ("resize", "resize_mode"))
        if name in images
    }
    quick = model.get("quick_gelu")
    return Settings(_given(texts).preprocess, quick if isinstance(quick, bool) else None)


def _given(options: Mapping[str, str]) -> Settings:
    """Translate ``options`` to open_clip's words.

    Raises:
        BackboneError: A value is not allowed.
    """
    preprocess: dict[str, Any] = {}
    for name in ("mean", "std"):
        if name in options:
            preprocess[name] = _three(name, options[name])
    for option, name, values in (
        ("interpolation", "interpolation", INTERPOLATIONS),
        ("resize", "resize_mode", RESIZES),
        ("activation", "activation", ACTIVATIONS),
    ):
        if option in options:
            if options[option] not in values:
                raise BackboneError(
                    f"option '{option}' of the weights is '{printable(options[option], 40)}': it must be one of "
                    f"{', '.join(values)}"
                )
            preprocess[name] = options[option]
    activation = preprocess.pop("activation", None)
    return Settings(preprocess, None if activation is None else activation == "quick_gelu")


def _three(name: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
        raise BackboneError(
            f"option '{name}' of the weights is '{printable(text, 60)}': give one number, or three with commas between"
        )
    return values * (3 if len(values) == 1 else 1)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _first(*values: bool | None) -> bool | None:
    return next((value for value in values if value is not None), None)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence open_clip's warning that no weights are loaded, for which it would set up the root logger."""
    root, handler = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
