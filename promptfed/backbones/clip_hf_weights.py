"""Weights of CLIP and SigLIP under transformers' names, put under open_clip's.

The numbers are the same. Queries, keys and values of a block become one matrix, and the projections of CLIP, which
transformers multiplies from the other side, are transposed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from promptfed.backbones.clip_hf_config import ClipConfig
from promptfed.backbones.openclip_weights import read_weights
from promptfed.errors import FormatError
from promptfed.printable import printable
from promptfed.readers.json_reader import read_json

WEIGHTS, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
SHARD = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
MOST_SHARDS = 200
SHOWN = 3
"""Names that a message lists."""

RESIDUAL = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
"""Parts of a block in transformers -> in open_clip's transformers."""
TIMM = {
    "layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "self_attn.out_proj": "attn.proj",
}  # fmt: skip


def read_folder_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder in transformers' format, by their names there; no code in a file is run.

    Raises:
        FormatError: There are none, or a file is damaged.
        OSError: A file cannot be read.
    """
    if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
        tensors: dict[str, Tensor] = {}
        for shard in _shards(folder):
            tensors.update(read_weights(folder / shard)[0])
        return tensors
    for name in (WEIGHTS, PICKLED):
        if (folder / name).is_file():
            return read_weights(folder / name)[0]
    raise FormatError(f"it holds no {WEIGHTS}; save it anew with save_pretrained")


def convert(tensors: Mapping[str, Tensor], config: ClipConfig) -> dict[str, Tensor]:
    """Return ``tensors`` as float32 under the names that open_clip gives them.

    Raises:
        FormatError: One is missing, or one is left over.
    """
    names = _Names(tensors)
    return names.clip(config) if config.kind == "clip" else names.siglip(config)


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise FormatError if ``tensors`` have other names or shapes than those of a model."""
    if tensors.keys() != expected.keys():  # the config names another number of layers than the file holds
        different = sorted(tensors.keys() ^ expected.keys())
        raise FormatError(f"the weights do not fit config.json: {_listed(different)}")
    shapes = [
        f"'{name}' is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if tensors[name].shape != expected[name].shape
    ]
    if shapes:
        more = f" ({len(shapes)} such)" if len(shapes) > SHOWN else ""
        raise FormatError(f"the weights do not fit config.json: {'; '.join(shapes[:SHOWN])}{more}")


class _Names:
    """Tensors under transformers' names, each to be taken once."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._left = {name: t for name, t in tensors.items() if not name.endswith("position_ids")}
        self._new: dict[str, Tensor] = {}
        self._lacking: list[str] = []

    def clip(self, config: ClipConfig) -> dict[str, Tensor]:
        self._text("", config.text.layers)
        self._move("text_projection.weight", "text_projection", torch.t)
        self._move("vision_model.embeddings.class_embedding", "visual.class_embedding", torch.flatten)
        self._move("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight")
        self._move("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding")
        self._both("vision_model.pre_layrnorm", "visual.ln_pre")
        self._both("vision_model.post_layernorm", "visual.ln_post")
        self._blocks("vision_model", "visual.transformer.resblocks", config.images.layers, RESIDUAL, "attn.in_proj_")
        self._move("visual_projection.weight", "visual.proj", torch.t)
        self._move("logit_scale", "logit_scale", _scalar)
        return self._all()

    def siglip(self, config: ClipConfig) -> dict[str, Tensor]:
        self._text("text.", config.text.layers)
        self._both("text_model.head", "text.text_projection")
        self._both("vision_model.embeddings.patch_embedding", "visual.trunk.patch_embed.proj")
        self._move("vision_model.embeddings.position_embedding.weight", "visual.trunk.pos_embed", _row)
        self._blocks("vision_model", "visual.trunk.blocks", config.images.layers, TIMM, "attn.qkv.")
        self._both("vision_model.post_layernorm", "visual.trunk.norm")
        self._pooling("vision_model.head.", "visual.trunk.attn_pool.", config.images.width)
        for name in ("logit_scale", "logit_bias"):
            self._move(name, name, _scalar)
        return self._all()

    def _text(self, prefix: str, layers: int) -> None:
        self._move("text_model.embeddings.token_embedding.weight", f"{prefix}token_embedding.weight")
        self._move("text_model.embeddings.position_embedding.weight", f"{prefix}positional_embedding")
        self._blocks("text_model", f"{prefix}transformer.resblocks", layers, RESIDUAL, "attn.in_proj_")
        self._both("text_model.final_layer_norm", f"{prefix}ln_final")

    def _blocks(self, tower: str, place: str, layers: int, parts: Mapping[str, str], joint: str) -> None:
        for number in range(layers):
            start = f"{tower}.encoder.layers.{number}."
            for name, new in parts.items():
                self._both(f"{start}{name}", f"{place}.{number}.{new}")
            for kind in ("weight", "bias"):
                three = [self._take(f"{start}self_attn.{part}_proj.{kind}") for part in "qkv"]
                self._new[f"{place}.{number}.{joint}{kind}"] = torch.cat(three)

    def _pooling(self, start: str, place: str, width: int) -> None:
        self._move(f"{start}probe", f"{place}latent")
        for kind in ("weight", "bias"):
            joint = self._take(f"{start}attention.in_proj_{kind}")
            self._new[f"{place}q.{kind}"], self._new[f"{place}kv.{kind}"] = joint[:width], joint[width:]
        self._both(f"{start}attention.out_proj", f"{place}proj")
        self._both(f"{start}layernorm", f"{place}norm")
        for layer in ("fc1", "fc2"):
            self._both(f"{start}mlp.{layer}", f"{place}mlp.{layer}")

    def _both(self, name: str, new: str) -> None:
        for kind in ("weight", "bias"):
            self._move(f"{name}.{kind}", f"{new}.{kind}")

    def _move(self, name: str, new: str, change: Callable[[Tensor], Tensor] | None = None) -> None:
        tensor = self._take(name)
        self._new[new] = tensor if change is None else change(tensor)

    def _take(self, name: str) -> Tensor:
        tensor = self._left.pop(name, None)
        if tensor is None:
            self._lacking.append(name)
            return torch.zeros(1)
        return tensor.float()

    def _all(self) -> dict[str, Tensor]:
        """Return the tensors under their new names, once nothing is missing and nothing left over."""
        if self._lacking:
            raise FormatError(f"its weights lack {_listed(self._lacking)}")
        if self._left:
            raise FormatError(f"its weights have an unknown {_listed(sorted(self._left))}")
        return {name: tensor.contiguous() for name, tensor in self._new.items()}


def _scalar(tensor: Tensor) -> Tensor:
    return tensor.reshape(()) if tensor.numel() == 1 else tensor


def _row(tensor: Tensor) -> Tensor:
    return tensor[None]


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" ({len(listed)} such)" if len(listed) > SHOWN else ""
    return ", ".join(f"'{printable(name, 100)}'" for name in listed[:SHOWN]) + more


def _shards(folder: Path) -> list[str]:
    content = read_json(folder / INDEX)
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = sorted({str(value) for value in places.values()}) if isinstance(places, dict) else []
    if not names or len(names) > MOST_SHARDS or not all(SHARD.fullmatch(name) for name in names):
        raise FormatError(f"{INDEX} names no files of this folder")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FormatError(f"{INDEX} names '{printable(missing[0], 100)}', which is not there: fetch the whole folder")
    return names
