"""A prompt bundle: one client's prompt as a folder that can be handed to somebody else, and used without promptfed.

    prompt.safetensors                what was trained: tensors `shared/NAME`, `personal/NAME`, `tuned/NAME`
    promptfed_config.json             everything else (Meta), with the SHA-256 of all files but the README
    README.md                         how to use it, with and without promptfed

For a dual encoder also

    class_text_features.safetensors   `features` (classes, embed_dim), unit length, and `logit_scale`

and for a black box, where the method deploys such a thing,

    prompt.txt                        the prompt as a text
    soft_prompt.safetensors           `soft` (n_tokens, dim), vectors in a text's place
    pixel_prompt.safetensors          `pixels` (3, height, width), added to images

for a language model, where one insert is all that the method predicts with,

    adapter_config.json               the insert as an adapter of PEFT
    adapter_model.safetensors
    head.safetensors                  a linear head that was trained with it

A black-box method that deploys more than one prompt (a re-mapping of scores, a vote) has those of these files that
there are; ``Meta.complete`` says whether they are all of it. No key is in a bundle, nor the name of a variable or of
a local file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from promptfed.blackbox.base import BlackBoxMethod
from promptfed.blackbox.oracles.query import Candidate
from promptfed.config import RunConfig
from promptfed.errors import BundleError, ConfigError, FormatError, RunError
from promptfed.export.folder import (
    ADAPTER,
    CONFIG,
    FEATURES,
    KIND,
    PIXELS,
    PROMPT,
    README,
    SEVERAL_LABELS,
    SOFT,
    TEXT,
    BackboneMeta,
    Meta,
    OracleMeta,
    checksums,
    read_meta,
    verified,
)
from promptfed.export.language import language_fields
from promptfed.export.origin import BundleOrigin
from promptfed.export.readme import readme
from promptfed.files.export_folder import write_export_folder
from promptfed.frozen_model import FrozenModel
from promptfed.kept_text import kept_of
from promptfed.method import FeatureMethod, Method
from promptfed.methods.zero_shot import ZeroShot
from promptfed.option import options_of
from promptfed.oracle_options import OracleOptions
from promptfed.printable import LONGEST, printable
from promptfed.prompt_state import PromptState
from promptfed.readers.content import expected_content
from promptfed.readers.tensors import parse_tensors
from promptfed.types import ClientPrompt

ABOUT_THE_MODEL = tuple(name for name, option in options_of(OracleOptions).items() if option.in_bundle)
"""Options of an oracle that a bundle says. The others are the user's own: keys, files, budgets, rates."""

KINDS = {"dual encoder": "backbone"}
"""Kind of model -> the word for it in messages, where the command line has another."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """One client's prompt with all that is needed to use it.

    Attributes:
        shared: The prompt that all clients share.
        personal: What is the client's own.
        meta: What ``promptfed_config.json`` says.
        class_features: Unit text features ``(classes, embed_dim)`` float32 of a dual encoder; None for a black box.
        candidate: The prompt that a black box is sent; None where there is no single one.
        tuned: The shared prompt as it was fine-tuned on the client.
        adapter: File name -> content of what PEFT reads of a language model's prompt; empty: PEFT has nothing for it.

    Raises:
        BundleError: The features do not fit ``meta`` or are not of unit length, or a prompt is not finite.
    """

    shared: PromptState
    personal: PromptState
    meta: Meta
    class_features: Tensor | None = None
    candidate: Candidate | None = None
    tuned: PromptState = field(default_factory=PromptState)
    adapter: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.meta.backbone is not None:
            object.__setattr__(self, "class_features", self._checked_features(self.meta.backbone.embed_dim))
        if not all(state.is_finite() for state in self.parts.values()):
            raise BundleError(f"the prompt of client {self.meta.client} holds numbers that are not finite")

    def _checked_features(self, embed_dim: int) -> Tensor:
        if self.class_features is None:
            raise BundleError("there are no class text features, which a bundle for a backbone needs")
        features = _plain(self.class_features)
        expected = (len(self.meta.classes), embed_dim)
        if tuple(features.shape) != expected:
            raise BundleError(f"class text features are {tuple(features.shape)}, not {expected} (classes, embed_dim)")
        lengths = features.norm(dim=-1)
        if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3):
            raise BundleError("class text features must be of unit length; divide each row by its norm")
        return features

    @property
    def prompt(self) -> ClientPrompt:
        """The prompt that the client deploys."""
        return ClientPrompt(self.shared, self.personal, self.meta.alpha, self.meta.space, self.tuned)

    @property
    def parts(self) -> dict[str, PromptState]:
        """The prompts by the first part of their tensors' names in the file."""
        return {"shared": self.shared, "personal": self.personal, "tuned": self.tuned}

    def contents(self) -> dict[str, bytes]:
        """Return file name -> bytes; the same bundle always gives the same bytes."""
        tensors = {f"{part}/{name}": tensor for part, state in self.parts.items() for name, tensor in state.items()}
        files = {PROMPT: PromptState(tensors).to_bytes()}
        if self.class_features is not None:
            scale = torch.tensor(self.meta.logit_scale, dtype=torch.float32)
            files[FEATURES] = save({"features": self.class_features, "logit_scale": scale})
        if self.candidate is not None:
            files |= _candidate_files(self.candidate)
        files |= {name: content for name, content in self.adapter.items() if name in ADAPTER}
        meta = self.meta.model_copy(update={"sha256": checksums(files)})
        return {**files, CONFIG: meta.to_bytes(), README: readme(replace(self, meta=meta)).encode()}

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Turn an error about tensors that the bundle's method cannot use into a BundleError.

        A file with the right checksum may be forged all the same: with tensors of other names, shapes or types.
        """
        what = f"the tensors of client {self.meta.client} for method '{self.meta.method}'"
        try:
            with expected_content(what, tensors=True):
                yield
        except FormatError as error:
            raise BundleError(f"the bundle's prompt cannot be used: {error}; export it again") from error


def _candidate_files(candidate: Candidate) -> dict[str, bytes]:
    files = {}
    if candidate.soft is not None:
        files[SOFT] = save({"soft": _plain(candidate.soft)})
    if candidate.pixels is not None:
        files[PIXELS] = save({"pixels": _plain(candidate.pixels)})
    if candidate.text or not files:
        files[TEXT] = candidate.text.encode()
    return files


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()


# ---------------------------------------------------------------------------------------------------- making


def make_bundle(
    config: RunConfig,
    method: Method,
    prompt: ClientPrompt,
    client: int,
    name: str,
    examples: str,
    chosen: str = "",
    origin: BundleOrigin | None = None,
    label_bias: float | None = None,
) -> Bundle:
    """Make the bundle of one client of a run. A black box is not called.

    Args:
        config: The options of the run.
        method: The run's method with its model.
        prompt: The prompt that the client deploys.
        client: The number of the client.
        name: The name of the client.
        examples: The kind of the training examples: "images", "texts" or "questions".
        chosen: How ``prompt.alpha`` was chosen, in words.
        origin: The run that the prompt comes from.
        label_bias: Where examples have several labels, what turns scores into probabilities.

    Raises:
        BundleError: A dual encoder, and no text features for it; a model that forecasts series or acts in episodes.
    """
    if config.task == SEVERAL_LABELS and label_bias is None:
        raise BundleError("a bundle of task 'multilabel' needs the client's training images: export it from its run")
    about: dict[str, Any] = {
        "promptfed_version": version("promptfed"),
        "method": config.method,
        "method_options": method.config.model_dump(mode="json"),
        **dict(method.setup.agreement),
        "client": client,
        "client_name": name,
        "alpha": prompt.alpha,
        "space": prompt.space,
        "chosen": chosen,
        "origin": origin,
    }
    if method.setup.model.kind in ("forecaster", "policy"):
        raise BundleError(
            f"a prompt of {method.name} has no bundle yet: promptfed.load_run(RUN).prompt(CLIENT) has its tensors"
        )
    if method.setup.model.kind == "language model":
        fields, adapter = language_fields(config, method, prompt)
        meta = Meta(**about, **fields, examples=examples)  # type: ignore[arg-type]
        text = candidate_of(method, prompt)
        return Bundle(prompt.shared, prompt.personal, meta, candidate=text, tuned=prompt.tuned, adapter=adapter)
    if config.oracle is None:
        backbone = method.setup.backbone
        if not isinstance(method, FeatureMethod):
            raise BundleError(f"{method.name} makes no text features of class names, so there is nothing to export")
        backbone_meta = BackboneMeta(
            name=backbone.name,
            fingerprint=backbone.fingerprint,
            text_dim=backbone.text_dim,
            embed_dim=backbone.embed_dim,
            precision=config.precision,
            library_options=dict(backbone.library_options) or None,
        )
        meta = Meta(**about, backbone=backbone_meta, logit_scale=backbone.logit_scale, label_bias=label_bias)
        features = method.client_features(prompt, method.setup.classes)
        return Bundle(prompt.shared, prompt.personal, meta, features, tuned=prompt.tuned)
    oracle, candidate = method.setup.oracle, candidate_of(method, prompt)
    meta = Meta(
        **about,
        oracle=OracleMeta(
            name=config.oracle,
            fingerprint=oracle.fingerprint,
            precision=config.precision,
            options={name: value for name, value in config.oracle_options.items() if name in ABOUT_THE_MODEL},
        ),
        form=oracle.form,
        examples=examples,  # type: ignore[arg-type]
        complete=candidate is not None and is_complete(method, prompt),
    )
    return Bundle(prompt.shared, prompt.personal, meta, None, candidate, prompt.tuned)


def candidate_of(method: Method, prompt: ClientPrompt) -> Candidate | None:
    """Return the one prompt that a client with ``prompt`` sends to a black box.

    Returns:
        The prompt. None if there is no single one: scores of two prompts are mixed, each example has its own prompt, or
        the method has none.
    """
    if not isinstance(method, BlackBoxMethod | ZeroShot):
        return None
    text = kept_of(prompt)
    if text is not None:
        return Candidate(text)
    pair, general = method.ends(prompt)
    if general is not None:
        return None
    try:
        candidate = method.candidate(*pair)
    except ConfigError:
        return None
    soft, pixels = candidate.soft, candidate.pixels
    return candidate if (soft is None or soft.dim() == 2) and (pixels is None or pixels.dim() == 3) else None


def is_complete(method: Method, prompt: ClientPrompt) -> bool:
    """Return whether ``method`` predicts for a client with ``prompt`` by its one candidate alone."""
    if isinstance(method, ZeroShot) or kept_of(prompt) is not None:
        return True
    return isinstance(method, BlackBoxMethod) and method.sends_one_prompt


def check_model(bundle: Bundle, model: FrozenModel) -> None:
    """Check that the bundle was made for ``model``.

    Raises:
        BundleError: It was made for another model. The message names both.
    """
    kind, made_for = bundle.meta.kind, bundle.meta.model
    if made_for.fingerprint == model.fingerprint:
        return
    if kind == "oracle":
        fix = "use the model, the options and the promptfed version it was exported with"
    else:
        fix = f"load backbone '{made_for.name}' in {made_for.precision}"
        if made_for.name == model.name:
            fix += " with the weights and the promptfed version it was exported with"
        fix += f", or export again from a run with '{model.name}'"
    raise BundleError(
        f"the bundle of client {bundle.meta.client} was made for {kind} '{made_for.name}' ({made_for.precision}, "
        f"fingerprint {made_for.fingerprint[:12]}) and does not fit {KINDS.get(model.kind, model.kind)} "
        f"'{model.name}' (fingerprint {model.fingerprint[:12]}): {fix}"
    )


# --------------------------------------------------------------------------------------------------- on disk


def bundle_folder(client: int, *, shared: bool = False) -> str:
    """Return the usual name of the folder of ``client``'s bundle, or of the shared prompt with its classes."""
    return f"client-{client}-shared" if shared else f"client-{client}"


def write_bundle(folder: Path, bundle: Bundle, *, overwrite: bool = False) -> Path:
    """Write the bundle whole or not at all.

    Args:
        folder: The folder to write.
        bundle: The bundle.
        overwrite: Whether to replace a bundle that the folder holds.

    Returns:
        ``folder``.

    Raises:
        BundleError: ``folder`` is a file, holds anything but a bundle, or holds a bundle that must not be replaced.
    """
    write_export_folder(folder, bundle.contents(), KIND, overwrite)
    return folder


def read_bundle(folder: Path) -> Bundle:
    """Read the bundle in ``folder``.

    Raises:
        BundleError: A file is missing, damaged or of another format. The message names it.
    """
    meta = read_meta(folder)
    vocabulary = meta.method_options.get("vocabulary")
    if isinstance(vocabulary, str) and vocabulary != "bundled":
        raise BundleError(
            f"bundle '{folder}' names a file for its vocabulary ('{printable(vocabulary, LONGEST)}'), which is not "
            "read: a bundle holds its tokens itself; export it again with this version of promptfed"
        )
    optional = [name for name in (TEXT, SOFT, PIXELS, *ADAPTER) if name in meta.sha256]
    names = (PROMPT, FEATURES) if meta.backbone is not None else (PROMPT, *optional)
    files = {name: verified(folder, name, meta) for name in names}
    try:
        parts = _unpacked(files[PROMPT])
        features, soft, pixels = (
            _tensor(files, file, name) for file, name in ((FEATURES, "features"), (SOFT, "soft"), (PIXELS, "pixels"))
        )
        text = files.get(TEXT, b"").decode()
        candidate = Candidate(text, soft, pixels) if files.keys() & {TEXT, SOFT, PIXELS} else None
        adapter = {name: files[name] for name in ADAPTER if name in files}
        return Bundle(**parts, meta=meta, class_features=features, candidate=candidate, adapter=adapter)
    except (RunError, BundleError, FormatError, KeyError, UnicodeDecodeError) as error:
        raise BundleError(f"bundle '{folder}' is damaged: {error}; export it again") from error


def _unpacked(content: bytes) -> dict[str, PromptState]:
    """Read the prompts of a file, by part.

    Raises:
        BundleError: A tensor has a name that does not belong there.
        RunError: The content is not safetensors.
    """
    state = PromptState.from_bytes(content)
    parts: dict[str, dict[str, Tensor]] = {"shared": {}, "personal": {}, "tuned": {}}
    for key, tensor in state.items():
        part, slash, name = key.partition("/")
        if part not in parts or not slash:
            raise BundleError("a tensor has a name that does not belong in it")
        parts[part][name] = tensor
    return {part: PromptState(tensors) for part, tensors in parts.items()}


def _tensor(files: dict[str, bytes], file: str, name: str) -> Tensor | None:
    """Read the tensor ``name`` of ``file``; None if there is no such file. Raise BundleError if it cannot be read."""
    if file not in files:
        return None
    try:
        tensors = parse_tensors(files[file])
    except FormatError as error:
        raise BundleError(f"{file}: {error}") from error
    if name not in tensors:
        raise BundleError(f"{file} holds no tensor '{name}'")
    return tensors[name]
