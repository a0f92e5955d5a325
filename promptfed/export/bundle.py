"""A prompt bundle: one client's prompt as a folder that can be handed to somebody else, and used without promptfed.

    prompt.safetensors                what was trained: tensors `shared/NAME`, `personal/NAME`, `tuned/NAME`
    class_text_features.safetensors   `features` (classes, embed_dim), unit length, and `logit_scale`
    promptfed_config.json             everything else (BundleMeta), with the SHA-256 of the two files above
    README.md                         how to use it, with and without promptfed

Nothing in it is pickled, and nothing in it is run when it is read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from promptfed.backbones.base import Backbone
from promptfed.config import RunConfig
from promptfed.errors import BundleError, RunError
from promptfed.export.readme import readme
from promptfed.methods.base import Method
from promptfed.prompts import PromptState
from promptfed.runs.atomic import write_synced
from promptfed.types import ClientPrompt

FORMAT_VERSION = 1
CONFIG, PROMPT, FEATURES, README = (
    "promptfed_config.json",
    "prompt.safetensors",
    "class_text_features.safetensors",
    "README.md",
)
FILES = frozenset({CONFIG, PROMPT, FEATURES, README})


class BackboneMeta(BaseModel):
    """The frozen model that a prompt was trained on, and without which it means nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    text_dim: int = Field(ge=1)
    embed_dim: int = Field(ge=1)
    precision: str


class BundleMeta(BaseModel):
    """``promptfed_config.json``. ``classes`` are the base classes, in the order of the class text features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    promptfed_version: str
    method: str
    method_options: dict[str, Any]
    backbone: BackboneMeta
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    rounds: int = Field(ge=1)
    seed: int
    client: int
    client_name: str
    logit_scale: float = Field(gt=0, allow_inf_nan=False)
    domains: tuple[str, ...] = ()
    alpha: float = Field(1.0, ge=0, le=1, description="how much of the client's own prompt is deployed")
    space: Literal["prompt", "features"] = "features"
    chosen: str = Field("", description="how alpha was chosen")
    sha256: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Bundle:
    """One client's prompt with all that is needed to use it; ``class_features`` is ``(classes, embed_dim)`` float32.

    Raises BundleError if the features do not fit ``meta`` or are not of unit length, or a prompt is not finite.
    """

    shared: PromptState
    personal: PromptState
    meta: BundleMeta
    class_features: Tensor
    tuned: PromptState = field(default_factory=PromptState)

    @property
    def prompt(self) -> ClientPrompt:
        return ClientPrompt(self.shared, self.personal, self.meta.alpha, self.meta.space, self.tuned)

    @property
    def parts(self) -> dict[str, PromptState]:
        """The prompts by the first part of their tensors' names in the file."""
        return {"shared": self.shared, "personal": self.personal, "tuned": self.tuned}

    def __post_init__(self) -> None:
        features = self.class_features.detach().to("cpu", torch.float32).contiguous()
        object.__setattr__(self, "class_features", features)
        expected = (len(self.meta.classes), self.meta.backbone.embed_dim)
        if tuple(features.shape) != expected:
            raise BundleError(f"class text features are {tuple(features.shape)}, not {expected} (classes, embed_dim)")
        lengths = features.norm(dim=-1)
        if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3):
            raise BundleError("class text features must be of unit length; divide each row by its norm")
        if not all(state.is_finite() for state in self.parts.values()):
            raise BundleError(f"the prompt of client {self.meta.client} holds numbers that are not finite")


def make_bundle(
    config: RunConfig, method: Method, prompt: ClientPrompt, client: int, client_name: str, chosen: str = ""
) -> Bundle:
    """What ``client`` of a run takes home: its prompts, and what ``method`` makes of the base classes' names.

    ``chosen`` says in words how ``prompt.alpha`` was chosen.
    """
    setup, backbone = method.setup, method.setup.backbone
    meta = BundleMeta(
        promptfed_version=version("promptfed"),
        method=config.method,
        method_options=method.config.model_dump(mode="json"),
        backbone=BackboneMeta(
            name=backbone.name,
            fingerprint=backbone.fingerprint,
            text_dim=backbone.text_dim,
            embed_dim=backbone.embed_dim,
            precision=config.precision,
        ),
        classes=setup.classes,
        templates=setup.templates,
        rounds=setup.rounds,
        seed=setup.seed,
        client=client,
        client_name=client_name,
        logit_scale=backbone.logit_scale,
        domains=setup.domains,
        alpha=prompt.alpha,
        space=prompt.space,
        chosen=chosen,
    )
    return Bundle(prompt.shared, prompt.personal, meta, method.client_features(prompt, setup.classes), prompt.tuned)


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


# --------------------------------------------------------------------------------------------------- writing


def write_bundle(folder: Path, bundle: Bundle, *, overwrite: bool = False) -> Path:
    """Write the bundle whole or not at all, and return ``folder``.

    Raises BundleError if ``folder`` is a file, holds anything but a bundle, or holds a bundle and ``overwrite`` is
    off: a folder with somebody's other files in it is never removed.
    """
    target = folder.resolve()
    old = _check_target(folder, target, overwrite)
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    fresh, outgoing = aside.with_suffix(".new"), aside.with_suffix(".old")
    try:
        fresh.mkdir(parents=True)
        for name, content in _contents(bundle).items():
            write_synced(fresh / name, content)
        if old:
            target.rename(outgoing)
        try:
            fresh.rename(target)
        except OSError:
            if old:
                outgoing.rename(target)
            raise
    except OSError as error:
        raise BundleError(f"cannot write bundle '{folder}': {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(outgoing, ignore_errors=True)
    return folder


def _check_target(folder: Path, target: Path, overwrite: bool) -> bool:
    """Whether a bundle stands at ``target`` already; BundleError if it must not be replaced."""
    if not target.exists():
        return False
    if not target.is_dir():
        raise BundleError(f"cannot write bundle '{folder}': there is a file of that name; choose another folder")
    held = {entry.name for entry in target.iterdir()}
    if not held:
        target.rmdir()
        return False
    if CONFIG not in held or held - FILES:
        strange = min(held - FILES) if held - FILES else f"no {CONFIG}"
        raise BundleError(
            f"folder '{folder}' is not empty and no bundle (it holds {strange}); choose a new or an empty folder"
        )
    if not overwrite:
        raise BundleError(f"folder '{folder}' already holds a bundle; choose another one, or overwrite it (overwrite)")
    return True


def _contents(bundle: Bundle) -> dict[str, bytes]:
    """File name -> bytes; the same bundle always gives the same bytes."""
    prompt = PromptState({f"{part}/{name}": t for part, state in bundle.parts.items() for name, t in state.items()})
    scale = torch.tensor(bundle.meta.logit_scale, dtype=torch.float32)
    files = {PROMPT: prompt.to_bytes(), FEATURES: save({"features": bundle.class_features, "logit_scale": scale})}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    meta = bundle.meta.model_copy(update={"sha256": sums})
    files[CONFIG] = (meta.model_dump_json(indent=2) + "\n").encode()
    files[README] = readme(replace(bundle, meta=meta)).encode()
    return files


# --------------------------------------------------------------------------------------------------- reading


def read_bundle(folder: Path) -> Bundle:
    """The bundle in ``folder``. Raises BundleError naming what is missing, damaged or of another format."""
    if not folder.is_dir():
        what = "is a file, not a bundle folder" if folder.exists() else "does not exist"
        raise BundleError(f"bundle '{folder}' {what}; 'promptfed export RUN --client K' makes a bundle")
    meta = _read_meta(folder)
    prompt = _verified(folder, PROMPT, meta)
    features = _verified(folder, FEATURES, meta)
    try:
        state, tensors = PromptState.from_bytes(prompt), load(features)
        shared, personal, tuned = (_part(state, part) for part in ("shared", "personal", "tuned"))
        if len(shared) + len(personal) + len(tuned) != len(state) or "features" not in tensors:
            raise BundleError("a tensor is missing, or has a name that does not belong in it")
        return Bundle(shared, personal, meta, tensors["features"], tuned)
    except (RunError, BundleError, SafetensorError) as error:
        raise BundleError(f"bundle '{folder}' is damaged: {error}; export it again") from error


def _read_meta(folder: Path) -> BundleMeta:
    try:
        found = json.loads(_read(folder, CONFIG))
        given = found.get("format_version") if isinstance(found, dict) else None
        if isinstance(given, int) and given != FORMAT_VERSION:
            raise BundleError(
                f"bundle '{folder}' has format version {given}, this promptfed reads {FORMAT_VERSION}; "
                "use the promptfed version it was made with, or export it again"
            )
        return BundleMeta.model_validate(found)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"bundle '{folder}' is damaged: {CONFIG} is not JSON ({error}); export it again") from error
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, problem["loc"])) or "its form" for problem in error.errors())
        raise BundleError(f"bundle '{folder}' is damaged: {CONFIG} is wrong in {wrong}; export it again") from error


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"
        raise BundleError(f"bundle '{folder}' is not complete: {name} {why}; export it again") from error


def _verified(folder: Path, name: str, meta: BundleMeta) -> bytes:
    content = _read(folder, name)
    if hashlib.sha256(content).hexdigest() != meta.sha256.get(name):
        raise BundleError(
            f"bundle '{folder}' is damaged: the SHA-256 of {name} is not that in {CONFIG}; export it again"
        )
    return content


def _part(state: PromptState, part: str) -> PromptState:
    return PromptState({name.removeprefix(f"{part}/"): t for name, t in state.items() if name.startswith(f"{part}/")})
