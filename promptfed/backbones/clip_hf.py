"""CLIP and SigLIP from folders in transformers' format, or by their name on the hub.

The weights go into an open_clip model of the same architecture, so that everything which works with open_clip works
with them: caches, text prefixes that are computed once, export, every method. Files are read by promptfed's own readers
(JSON, safetensors, plain tensors of torch); nothing that a folder names is imported, and transformers is not asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from promptfed.backbones.clip_hf_config import PREFIX, parse_config
from promptfed.backbones.clip_hf_images import Preparation, parse_preparation
from promptfed.backbones.clip_hf_models import build_model
from promptfed.backbones.clip_hf_pieces import read_piece_tokenizer
from promptfed.backbones.clip_hf_tokens import read_tokenizer
from promptfed.backbones.clip_hf_weights import convert, read_folder_weights
from promptfed.backbones.device import pick_device, pick_dtype
from promptfed.backbones.hub import fetched_folder
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.errors import BackboneError, FormatError, reason
from promptfed.printable import printable
from promptfed.readers.json_reader import read_json

CONFIG, IMAGES, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
FILES = ("*.json", "merges.txt", "spiece.model", "model*.safetensors")
"""What is fetched from the hub; ``PICKLED`` only where there is no safetensors."""
PICKLED = "pytorch_model.bin"
SHOWN_NAME = 300


def load_clip_hf(name: str, *, device: str = "cpu", precision: str = "float32") -> OpenClipBackbone:
    """Load the backbone ``clip-hf:FOLDER`` or ``clip-hf:ORG/NAME``.

    Raises:
        ConfigError: The device or the precision is unknown.
        BackboneError: There is no such folder, the hub cannot be reached, or the model is of another kind.
    """
    pick_device(device)
    dtype = pick_dtype(precision)
    folder = find_folder(name)
    try:
        config = parse_config(read_json(_file(folder, CONFIG)))
        preparation = parse_preparation(_image_settings(folder), config)
        tokenizer = read_tokenizer(folder, config) if config.kind == "clip" else read_piece_tokenizer(folder, config)
        model = build_model(config, convert(read_folder_weights(folder), config), dtype)
    except (FormatError, OSError) as error:
        raise BackboneError(
            f"backbone '{printable(name, SHOWN_NAME)}' does not load as a CLIP or SigLIP of transformers: "
            f"{reason(error)}"
        ) from error
    return _backbone(name, model, tokenizer, preparation, device, precision)


def find_folder(name: str) -> Path:
    """Return the folder of the backbone ``name``; one on the hub is fetched first.

    Raises:
        BackboneError: There is none.
    """
    place = name.removeprefix(PREFIX)
    if not place:
        raise BackboneError(f"backbone '{name}' names no model: write {PREFIX}FOLDER or {PREFIX}ORG/NAME")
    folder = Path(place).expanduser()
    try:
        if folder.is_dir():
            return folder
        is_path = folder.exists() or place.startswith(("/", ".", "~")) or "\\" in place or place.count("/") != 1
    except (OSError, ValueError):  # too long, or a NUL inside
        is_path = True
    if is_path:
        raise BackboneError(
            f"backbone '{printable(name, SHOWN_NAME)}': there is no such folder; give one with {CONFIG} and "
            "model.safetensors, as save_pretrained writes it, or a name on the hub such as "
            f"{PREFIX}openai/clip-vit-base-patch32"
        )
    return _fetched(name, place)


# ------------------------------------------------------------------------------------------------- internals


def _fetched(name: str, repository: str) -> Path:
    """Return the folder of ``repository``, from the hub's cache or the hub."""
    return fetched_folder(
        name,
        repository,
        (FILES, (*FILES, PICKLED)),
        lambda folder: any(folder.glob("model*.safetensors")),
        trouble="is neither a folder nor to be had from the hub",
        prefix=PREFIX,
    )


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise FormatError(f"it holds no {name}")
    return folder / name


def _image_settings(folder: Path) -> Any:
    """Return the settings of the images, which newer versions write with those of the tokenizer."""
    if (folder / IMAGES).is_file() or not (folder / PROCESSOR).is_file():
        return read_json(_file(folder, IMAGES))
    content = read_json(folder / PROCESSOR)
    part = content.get("image_processor") if isinstance(content, dict) else None
    if part is None:
        raise FormatError(f"{PROCESSOR} has no image_processor, and there is no {IMAGES}")
    return part


def _backbone(
    name: str, model: Any, tokenizer: Any, preparation: Preparation, device: str, precision: str
) -> OpenClipBackbone:
    model.visual.preprocess_cfg = {**_usual_preparation(), **preparation.settings}
    return OpenClipBackbone(name, model, tokenizer, device=device, precision=precision, transform=preparation.transform)


def _usual_preparation() -> dict[str, Any]:
    """Return the fields of open_clip's ``PreprocessCfg`` with their defaults."""
    from open_clip.transform import PreprocessCfg

    return dict(vars(PreprocessCfg()))
