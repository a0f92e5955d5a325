"""The folder that a prompt bundle is: what its config says, and how its files are read, each of them checked.

Nothing in it is pickled, and nothing in it is run when it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from promptfed.agreement import Agreement
from promptfed.errors import BundleError, FormatError
from promptfed.export.origin import BundleOrigin
from promptfed.files.export_folder import ExportKind
from promptfed.peft_format import names as peft_format
from promptfed.peft_format.page import AdapterUse
from promptfed.printable import LONGEST, printable
from promptfed.prompt_template import PromptTemplate
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import LIMITS, parse_json
from promptfed.readers.tensors import read_tensor_bytes
from promptfed.runs.directory import BUNDLE_CONFIG, is_run

FORMAT_VERSION = 1
CONFIG, PROMPT, README = BUNDLE_CONFIG, "prompt.safetensors", "README.md"
FEATURES = "class_text_features.safetensors"
TEXT, SOFT, PIXELS = "prompt.txt", "soft_prompt.safetensors", "pixel_prompt.safetensors"
ADAPTER = (peft_format.CONFIG, peft_format.WEIGHTS, peft_format.HEAD)
"""Files of a language model's prompt that PEFT reads, and a trained head, which PEFT ignores."""
KIND = ExportKind("a", "bundle", CONFIG, frozenset({CONFIG, PROMPT, README, FEATURES, TEXT, SOFT, PIXELS, *ADAPTER}))

MOST_SHOWN = 10
"""Wrong fields that a message names."""
MOST_CLASSES, LONGEST_NAME = 50_000, 10_000
"""Limits of a bundle's class names and of the letters of one: a bundle of a stranger must not take a day to load."""
ClassNames = Annotated[
    tuple[Annotated[str, Field(max_length=LONGEST_NAME)], ...], Field(min_length=1, max_length=MOST_CLASSES)
]


ModelKind = Literal["backbone", "oracle", "language model"]


class BackboneMeta(BaseModel):
    """The dual encoder that a prompt was trained on, and without which it means nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    text_dim: int = Field(ge=1)
    embed_dim: int = Field(ge=1)
    precision: str
    library_options: dict[str, bool | str | tuple[float, float, float]] | None = Field(None, max_length=5)
    """What open_clip must be told beside the name to see images as the backbone did."""


class OracleMeta(BaseModel):
    """The black box that a prompt was made for. ``name`` is what ``--oracle`` takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    precision: str
    options: dict[str, Any]


class LanguageModelMeta(AdapterUse):
    """The language model that a prompt was trained on, and how it is read. ``name`` is what ``--backbone`` takes."""

    precision: str


SEVERAL_LABELS = "multilabel"
"""The task whose examples have several labels."""


class Meta(Agreement):
    """``promptfed_config.json``: the agreement of the run, whose prompt it is, and the one model that it is for.

    A bundle for a dual encoder has ``backbone`` and ``logit_scale``. One for a black box has ``oracle``, ``form``,
    ``examples`` and ``complete``, and one for a language model ``language_model`` in the place of ``oracle``. The file
    says what its kind has.

    Attributes:
        classes: The base classes, in the order of the class text features.
        alpha: How much of the client's own prompt is deployed, 0..1.
        chosen: How alpha was chosen.
        origin: The run that the prompt comes from.
        sha256: File name -> hex SHA-256.
        label_bias: Where an example has several labels, b in the probability ``sigma(score + b)`` of each class.
        form: How an example is put, and what the classes are called.
        complete: Whether the deployed prompt is all that the method predicts with.
    """

    FIELDS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "backbone": ("backbone", "logit_scale"),
        "oracle": ("oracle", "form", "examples", "complete"),
        "language model": ("language_model", "form", "examples", "complete"),
    }
    """Kind of model -> the fields that a bundle for it has, and no other has."""

    format_version: int = FORMAT_VERSION
    promptfed_version: str
    method: str
    method_options: dict[str, Any]
    classes: ClassNames
    templates: tuple[str, ...] = Field(max_length=MOST_CLASSES)
    client: int
    client_name: str
    alpha: float = Field(1.0, ge=0, le=1)
    space: Literal["prompt", "features"] = "features"
    chosen: str = ""
    origin: BundleOrigin | None = None
    sha256: dict[str, str] = Field(default_factory=dict)
    backbone: BackboneMeta | None = None
    logit_scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    label_bias: float | None = Field(None, allow_inf_nan=False)
    oracle: OracleMeta | None = None
    language_model: LanguageModelMeta | None = None
    form: PromptTemplate | None = None
    examples: Literal["images", "texts", "questions"] = "images"
    complete: bool = True

    @model_validator(mode="after")
    def _is_for_one_model(self) -> Meta:
        if sum(model is not None for model in self._models.values()) != 1:
            raise ValueError("backbone, oracle and language_model, of which exactly one must be given")
        of_kind = self.FIELDS[self.kind]
        lacking = [name for name in of_kind if name not in self.model_fields_set or getattr(self, name) is None]
        foreign = [name for name in self._foreign if name in self.model_fields_set]
        if lacking or foreign:
            raise ValueError(", ".join((*lacking, *foreign)))
        return self

    @property
    def _models(self) -> dict[ModelKind, BackboneMeta | OracleMeta | LanguageModelMeta | None]:
        return {"backbone": self.backbone, "oracle": self.oracle, "language model": self.language_model}

    @property
    def kind(self) -> ModelKind:
        """What kind of model the prompt is for."""
        return next(kind for kind, model in self._models.items() if model is not None)

    @property
    def model(self) -> BackboneMeta | OracleMeta | LanguageModelMeta:
        """The frozen model that the prompt is for."""
        model = self._models[self.kind]
        assert model is not None, "the validator saw to it"
        return model

    @property
    def _foreign(self) -> tuple[str, ...]:
        """The fields that only bundles for another kind of model have."""
        names = {name: None for fields in self.FIELDS.values() for name in fields}  # a set that keeps its order
        return tuple(name for name in names if name not in self.FIELDS[self.kind])

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        exclude: dict[str, Any] = dict.fromkeys(self._foreign, True)
        if self.backbone is not None and self.backbone.library_options is None:
            exclude["backbone"] = {"library_options"}
        if self.label_bias is None:
            exclude["label_bias"] = True
        return (self.model_dump_json(indent=2, exclude=exclude) + "\n").encode()


def checksums(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return file name -> hex SHA-256."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


# --------------------------------------------------------------------------------------------------- reading


def read_meta(folder: Path) -> Meta:
    """Read the bundle's config.

    Raises:
        BundleError: ``folder`` is no bundle, or the bundle is damaged or of another format.
    """
    if not folder.is_dir():
        what = "is a file, not a bundle folder" if folder.exists() else "does not exist"
        raise BundleError(f"bundle '{folder}' {what}; promptfed export (in Python run.export) makes a bundle")
    if is_run(folder) and not (folder / CONFIG).exists():
        raise BundleError(
            f"'{folder}' is a run, not a bundle: export one client's prompt first (promptfed export, in Python "
            "promptfed.load_run and run.export)"
        )
    try:
        content = parse_json(_read(folder, CONFIG))
    except FormatError as error:
        raise BundleError(f"bundle '{folder}' is damaged: {CONFIG} is not JSON ({error}); export it again") from error
    format_version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(format_version, int) and format_version != FORMAT_VERSION:
        raise BundleError(
            f"bundle '{folder}' has format version {format_version}, this promptfed reads {FORMAT_VERSION}; "
            "use the promptfed version it was made with, or export it again"
        )
    try:
        return Meta.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
        places = [".".join(map(str, problem["loc"])) or _whole(problem) for problem in problems[:MOST_SHOWN]]
        wrong = ", ".join(printable(place, LONGEST) for place in places)
        if len(problems) > MOST_SHOWN:
            wrong += f" and {len(problems) - MOST_SHOWN} more places"
        raise BundleError(f"bundle '{folder}' is damaged: {CONFIG} is wrong in {wrong}; export it again") from error


def _whole(problem: ErrorDetails) -> str:
    """Say what is wrong with the config as a whole."""
    return str(problem["ctx"]["error"]) if problem["type"] == "value_error" else "its form"


def verified(folder: Path, name: str, meta: Meta) -> bytes:
    """Read the file ``name`` and check it against its SHA-256 in ``meta``.

    Raises:
        BundleError: The file is missing or has changed.
    """
    content = _read(folder, name)
    if hashlib.sha256(content).hexdigest() != meta.sha256.get(name):
        raise BundleError(
            f"bundle '{folder}' is damaged: the SHA-256 of {name} is not that in {CONFIG}; export it again"
        )
    return content


def _read(folder: Path, name: str) -> bytes:
    try:
        if name.endswith(".safetensors"):
            return read_tensor_bytes(folder / name)
        return read_bytes(folder / name, LIMITS.size)
    except FormatError as error:
        raise BundleError(f"bundle '{folder}' is damaged: {error}; export it again") from error
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"
        raise BundleError(f"bundle '{folder}' is not complete: {name} {why}; export it again") from error
