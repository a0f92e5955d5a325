"""A prompt bundle: one client's prompt as a folder that can be handed to somebody else, and used without promptfed.

    prompt.safetensors                what was trained: tensors `shared/NAME`, `personal/NAME`, `tuned/NAME`
    class_text_features.safetensors   `features` (classes, embed_dim), unit length, and `logit_scale`
    promptfed_config.json             everything else (BundleMeta), with the SHA-256 of the two files above
    README.md                         how to use it, with and without promptfed

Prompts for black boxes make another folder: `blackbox_bundle.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save
from torch import Tensor

from promptfed.backbones.base import Backbone
from promptfed.config import RunConfig
from promptfed.errors import BundleError, ConfigError, FormatError, RunError
from promptfed.export.folder import (
    CONFIG,
    FEATURES,
    PROMPT,
    README,
    Meta,
    PromptFolder,
    agreed,
    checksums,
    config_bytes,
    packed,
    raw_config,
    read_meta,
    unpacked,
    verified,
)
from promptfed.export.folder import write_bundle as write_bundle
from promptfed.export.origin import BundleOrigin
from promptfed.export.readme import readme
from promptfed.method import FeatureMethod, Method
from promptfed.printable import LONGEST, printable
from promptfed.prompt_state import PromptState
from promptfed.readers.tensors import parse_tensors
from promptfed.trust import is_local_file
from promptfed.types import ClientPrompt


class BackboneMeta(BaseModel):
    """The frozen model that a prompt was trained on, and without which it means nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    text_dim: int = Field(ge=1)
    embed_dim: int = Field(ge=1)
    precision: str


class BundleMeta(Meta):
    """``promptfed_config.json``. ``classes`` are in the order of the class text features."""

    backbone: BackboneMeta
    logit_scale: float = Field(gt=0, allow_inf_nan=False)


@dataclass(frozen=True, eq=False)
class Bundle(PromptFolder):
    """One client's prompt with all that is needed to use it; ``class_features`` is ``(classes, embed_dim)`` float32.

    Raises BundleError if the features do not fit ``meta`` or are not of unit length, or a prompt is not finite.
    """

    shared: PromptState
    personal: PromptState
    meta: BundleMeta
    class_features: Tensor
    tuned: PromptState = field(default_factory=PromptState)

    @property
    def about(self) -> BundleMeta:
        return self.meta

    def __post_init__(self) -> None:
        features = self.class_features.detach().to("cpu", torch.float32).contiguous()
        object.__setattr__(self, "class_features", features)
        expected = (len(self.meta.classes), self.meta.backbone.embed_dim)
        if tuple(features.shape) != expected:
            raise BundleError(f"class text features are {tuple(features.shape)}, not {expected} (classes, embed_dim)")
        lengths = features.norm(dim=-1)
        if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3):
            raise BundleError("class text features must be of unit length; divide each row by its norm")
        self.check_finite()

    def contents(self) -> dict[str, bytes]:
        scale = torch.tensor(self.meta.logit_scale, dtype=torch.float32)
        files = {PROMPT: packed(self), FEATURES: save({"features": self.class_features, "logit_scale": scale})}
        meta = self.meta.model_copy(update={"sha256": checksums(files)})
        return {**files, CONFIG: config_bytes(meta), README: readme(replace(self, meta=meta)).encode()}


def make_bundle(
    config: RunConfig,
    method: Method,
    prompt: ClientPrompt,
    client: int,
    client_name: str,
    chosen: str = "",
    origin: BundleOrigin | None = None,
) -> Bundle:
    """What ``client`` of a run takes home: its prompts, and what ``method`` makes of the base classes' names.

    ``chosen`` says in words how ``prompt.alpha`` was chosen, ``origin`` what its run was.
    """
    setup, backbone = method.setup, method.setup.backbone
    if not isinstance(method, FeatureMethod):
        raise BundleError(f"{method.name} makes no text features of class names, so there is nothing to export")
    meta = BundleMeta(
        **agreed(method, config.method, prompt, client, client_name, chosen, origin),
        backbone=BackboneMeta(
            name=backbone.name,
            fingerprint=backbone.fingerprint,
            text_dim=backbone.text_dim,
            embed_dim=backbone.embed_dim,
            precision=config.precision,
        ),
        logit_scale=backbone.logit_scale,
    )
    features = method.client_features(prompt, setup.classes)
    return Bundle(prompt.shared, prompt.personal, meta, features, prompt.tuned)


def check_backbone(bundle: Bundle, backbone: Backbone) -> None:
    """Raises BundleError, naming both backbones, unless ``backbone`` is the very one the bundle was made with."""
    made_for = bundle.meta.backbone
    if made_for.fingerprint == backbone.fingerprint:
        return
    fix = f"load backbone '{made_for.name}' in {made_for.precision}"
    if made_for.name == backbone.name:
        fix += " with the weights and the promptfed version it was exported with"
    raise BundleError(
        f"the bundle of client {bundle.meta.client} was made for backbone '{made_for.name}' "
        f"({made_for.precision}, fingerprint {made_for.fingerprint[:12]}) and does not fit backbone '{backbone.name}' "
        f"(fingerprint {backbone.fingerprint[:12]}): {fix}, or export again from a run with '{backbone.name}'"
    )


def check_named_backbone(bundle: Bundle, given: str | None) -> None:
    """Raises ConfigError if the bundle's backbone is a file of the machine it was made on: the user names the copy."""
    name = bundle.meta.backbone.name
    if given is None and name.startswith("open_clip:") and is_local_file(name):
        raise ConfigError(
            f"the bundle was made for weights in a file ('{printable(name, LONGEST)}'), which a bundle cannot choose "
            "here: name your copy of it by --backbone open_clip:MODEL/FILE"
        )


def is_for_black_box(folder: Path) -> bool:
    """Whether the bundle in ``folder`` is one of `blackbox_bundle.py`. Raises BundleError if it is none at all."""
    found = raw_config(folder)
    return isinstance(found, dict) and "oracle" in found


def read_bundle(folder: Path) -> Bundle:
    """The bundle in ``folder``. Raises BundleError naming what is missing, damaged or of another format."""
    if is_for_black_box(folder):
        raise BundleError(f"bundle '{folder}' holds a prompt for a black box, not for a backbone")
    meta = read_meta(folder, BundleMeta)
    prompt, features = verified(folder, PROMPT, meta), verified(folder, FEATURES, meta)
    try:
        parts, tensors = unpacked(prompt), parse_tensors(features)
        if "features" not in tensors:
            raise BundleError("the class text features are not in their file")
        return Bundle(parts["shared"], parts["personal"], meta, tensors["features"], parts["tuned"])
    except (RunError, BundleError, FormatError) as error:
        raise BundleError(f"bundle '{folder}' is damaged: {error}; export it again") from error
