"""A prompt bundle for a black box: one client's prompt as a folder that stands on its own.

    prompt.safetensors         what was trained: tensors `shared/NAME`, `personal/NAME`
    prompt.txt                 the prompt that is deployed, where it is a text
    soft_prompt.safetensors    `soft` (n_tokens, dim), where it is vectors in a text's place
    pixel_prompt.safetensors   `pixels` (3, height, width), where it is added to images
    promptfed_config.json      everything else (BlackBoxMeta), with the SHA-256 of the files above
    README.md                  what is sent, and how to use it with and without promptfed

A method that deploys more than one prompt (a re-mapping of scores, a vote) has those of the middle files that there
are; ``complete`` says whether they are all of it. No key is in it, nor the name of a variable or a local file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save
from torch import Tensor

from promptfed.blackbox.base import BlackBoxMethod
from promptfed.blackbox.oracles.local.function import ScoreFunction
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.config import RunConfig, validate
from promptfed.errors import BundleError, ConfigError, FormatError, RunError
from promptfed.export.folder import (
    CONFIG,
    PIXELS,
    PROMPT,
    README,
    SOFT,
    TEXT,
    Meta,
    PromptFolder,
    agreed,
    checksums,
    config_bytes,
    packed,
    read_meta,
    unpacked,
    verified,
)
from promptfed.export.origin import BundleOrigin
from promptfed.kept_text import kept_of
from promptfed.method import Method
from promptfed.methods.zero_shot import ZeroShot
from promptfed.objects import function_oracle
from promptfed.option import options_of
from promptfed.oracle_options import OracleOptions
from promptfed.printable import LONGEST, printable
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.readers.tensors import parse_tensors
from promptfed.trust import admitted, is_local_file
from promptfed.types import ClientPrompt

ABOUT_THE_MODEL = tuple(name for name, option in options_of(OracleOptions).items() if option.in_bundle)
"""Options of an oracle that a bundle says. The others are the user's own: keys, files, budgets, rates."""


class OracleMeta(BaseModel):
    """The black box that a prompt was made for. ``name`` is what ``--oracle`` takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    precision: str
    options: dict[str, Any]


class BlackBoxMeta(Meta):
    """``promptfed_config.json``. ``form``: how an example is put, and what the classes are called."""

    oracle: OracleMeta
    form: PromptTemplate
    examples: Literal["images", "texts", "questions"]
    complete: bool


@dataclass(frozen=True, eq=False)
class BlackBoxBundle(PromptFolder):
    """``candidate``: the prompt that is deployed, None where the method makes something else of its tensors."""

    shared: PromptState
    personal: PromptState
    meta: BlackBoxMeta
    candidate: Candidate | None
    tuned: PromptState = field(default_factory=PromptState)

    @property
    def about(self) -> BlackBoxMeta:
        return self.meta

    def __post_init__(self) -> None:
        self.check_finite()

    def contents(self) -> dict[str, bytes]:
        from promptfed.export.blackbox_readme import readme

        files = {PROMPT: packed(self)}
        found = self.candidate
        if found is not None:
            if found.soft is not None:
                files[SOFT] = save({"soft": _plain(found.soft)})
            if found.pixels is not None:
                files[PIXELS] = save({"pixels": _plain(found.pixels)})
            if found.text or len(files) == 1:
                files[TEXT] = found.text.encode()
        meta = self.meta.model_copy(update={"sha256": checksums(files)})
        return {**files, CONFIG: config_bytes(meta), README: readme(replace(self, meta=meta)).encode()}


def candidate_of(method: Method, prompt: ClientPrompt) -> Candidate | None:
    """The one prompt that a client with ``prompt`` sends; None where there is no such thing (scores of two prompts are
    mixed, each example has a prompt of its own, the method has none)."""
    if not isinstance(method, BlackBoxMethod | ZeroShot):
        return None
    kept = kept_of(prompt)
    if kept is not None:
        return Candidate(kept)
    pair, general = method.ends(prompt)
    if general is not None:
        return None
    try:
        found = method.candidate(*pair)
    except ConfigError:
        return None
    one_for_all = (found.soft is None or found.soft.dim() == 2) and (found.pixels is None or found.pixels.dim() == 3)
    return found if one_for_all else None


def is_complete(method: Method, prompt: ClientPrompt) -> bool:
    """Whether ``candidate_of`` is all that ``method`` predicts with for a client with ``prompt``, if it is anything."""
    if isinstance(method, ZeroShot) or kept_of(prompt) is not None:
        return True
    return isinstance(method, BlackBoxMethod) and method.sends_one_prompt


def make_blackbox_bundle(
    config: RunConfig,
    method: Method,
    prompt: ClientPrompt,
    client: int,
    client_name: str,
    examples: str,
    chosen: str = "",
    origin: BundleOrigin | None = None,
) -> BlackBoxBundle:
    """What ``client`` of a run takes home; the oracle is not asked anything.

    ``chosen`` says how alpha was chosen, ``origin`` what its run was.
    """
    oracle = method.setup.oracle
    candidate = candidate_of(method, prompt)
    meta = BlackBoxMeta(
        **agreed(method, config.method, prompt, client, client_name, chosen, origin),
        oracle=OracleMeta(
            name=config.oracle or "",
            fingerprint=oracle.fingerprint,
            precision=config.precision,
            options={name: v for name, v in config.oracle_options.items() if name in ABOUT_THE_MODEL},
        ),
        form=oracle.form,
        examples=examples,  # type: ignore[arg-type]
        complete=candidate is not None and is_complete(method, prompt),
    )
    return BlackBoxBundle(prompt.shared, prompt.personal, meta, candidate, prompt.tuned)


def read_blackbox_bundle(folder: Path) -> BlackBoxBundle:
    """The bundle in ``folder``. Raises BundleError naming what is missing, damaged or of another format."""
    meta = read_meta(folder, BlackBoxMeta)
    vocabulary = meta.method_options.get("vocabulary")
    if isinstance(vocabulary, str) and vocabulary != "bundled":
        raise BundleError(
            f"bundle '{folder}' names a file for its vocabulary ('{printable(vocabulary, LONGEST)}'), which is not "
            "read: a bundle holds its tokens itself; export it again with this version of promptfed"
        )
    files = {name: verified(folder, name, meta) for name in (PROMPT, TEXT, SOFT, PIXELS) if name in meta.sha256}
    try:
        if PROMPT not in files:
            raise BundleError(f"{PROMPT} is not among its files")
        parts = unpacked(files[PROMPT])
        soft = _tensor(files[SOFT], SOFT, "soft") if SOFT in files else None
        pixels = _tensor(files[PIXELS], PIXELS, "pixels") if PIXELS in files else None
        candidate = None if len(files) == 1 else Candidate(files.get(TEXT, b"").decode(), soft, pixels)
        return BlackBoxBundle(parts["shared"], parts["personal"], meta, candidate, parts["tuned"])
    except (RunError, BundleError, FormatError, KeyError, UnicodeDecodeError) as error:
        raise BundleError(f"bundle '{folder}' is damaged: {error}; export it again") from error


def _tensor(content: bytes, file: str, name: str) -> Tensor:
    """The tensor ``name`` that ``file`` holds in ``content``. Raises BundleError if there is none that can be read."""
    try:
        tensors = parse_tensors(content)
    except FormatError as error:
        raise BundleError(f"{file}: {error}") from error
    if name not in tensors:
        raise BundleError(f"{file} holds no tensor '{name}'")
    return tensors[name]


def load_bundles_oracle(
    bundle: BlackBoxBundle,
    name: str | ScoreFunction | None = None,
    device: str = "cpu",
    *,
    trust_address: bool = False,
    **changed: Any,
) -> Oracle:
    """The oracle that ``bundle`` was made for, or the same one under another ``name`` or with ``changed`` options. The
    name may be the function itself.

    A bundle may be a stranger's: its address is used only if the user named it before or says ``trust_address``, a
    key's variable and files of this machine only if the user names them.

    Raises BundleError, naming both, if it is another one; ConfigError for what the user has to name.
    """
    from promptfed.blackbox.oracle_factory import load_oracle

    meta = bundle.meta
    told = {option: value for option, value in meta.oracle.options.items() if option in ABOUT_THE_MODEL}
    kind, _, file = meta.oracle.name.partition(":")
    if name is not None and not isinstance(name, str):
        options = validate(OracleOptions, {**told, **changed}, "oracle option")
        return _checked(function_oracle(name, meta.form, options), meta)
    if name is None and kind in ("local", "clip") and is_local_file(file):
        raise ConfigError(
            f"the bundle was made for a model in a file or folder ('{printable(file, LONGEST)}'), which a bundle "
            f"cannot choose here: name your copy of it by --oracle {kind}:PATH"
        )
    if (name or meta.oracle.name) == "embeds":
        if not changed.get("embeddings"):
            raise ConfigError(
                "the bundle's vectors go between token embeddings, which a bundle does not hold: name a folder of the "
                f"same model ('{printable(told.get('model') or '', LONGEST)}') by --embeddings DIR"
            )
    elif changed.get("embeddings"):
        raise ConfigError(
            f"--embeddings goes with oracle embeds; this bundle is for '{printable(meta.oracle.name, LONGEST)}': "
            "leave it out"
        )
    if (name or meta.oracle.name) in ("api", "embeds"):
        access = {option: changed.pop(option, None) for option in ("base_url", "api_key_env")}
        told = admitted(told, "the bundle", **access, trust_address=trust_address, strict=False)
    options = validate(OracleOptions, {**told, **changed}, "oracle option")
    name = name or meta.oracle.name
    return _checked(load_oracle(name, meta.form, options, device=device, precision=meta.oracle.precision), meta)


def _checked(oracle: Oracle, meta: BlackBoxMeta) -> Oracle:
    """Raises BundleError unless ``oracle`` is the one that the bundle was made for."""
    if oracle.fingerprint != meta.oracle.fingerprint:
        raise BundleError(
            f"the bundle of client {meta.client} was made for oracle '{meta.oracle.name}' (fingerprint "
            f"{meta.oracle.fingerprint[:12]}) and does not fit oracle '{oracle.name}' (fingerprint "
            f"{oracle.fingerprint[:12]}): use the model, the options and the promptfed version it was exported with"
        )
    return oracle


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()
