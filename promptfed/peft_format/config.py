"""``adapter_config.json``: what PEFT needs to know beside the tensors, read from anybody's file.

PEFT takes several fields for regular expressions. One of a stranger can keep a machine busy for ever, so none is run
here: names of modules are compared letter by letter, and an expression that a scale depends on is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from promptfed.errors import FormatError
from promptfed.peft_format.names import CONFIG
from promptfed.printable import printable
from promptfed.readers.files import MEGABYTE, shown
from promptfed.readers.json_reader import JsonLimits, read_json

LIMITS = JsonLimits(size=MEGABYTE, depth=8, values=50_000)
SOFT_TYPES = ("PROMPT_TUNING", "P_TUNING")
PEFT_TYPES = (*SOFT_TYPES, "PREFIX_TUNING", "LORA", "IA3")
"""Kinds of adapters that are read."""
TASK_TYPES = ("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
HARMLESS_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of ``init_lora_weights`` under which PEFT leaves the base model's own matrices as they are."""
UNREAD = (
    "use_dora", "use_qalora", "lora_bias", "target_parameters", "trainable_token_indices", "alora_invocation_tokens",
    "layer_replication", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
"""Variants of LoRA whose files mean something else than ``scale * B A``."""
LITERAL = re.compile(r"\^?[\w.\-]+")
"""A name of a module, and no other regular expression."""

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Name = Annotated[str, Field(max_length=512)]
Names = Annotated[tuple[Name, ...], Field(max_length=20_000)]
Pattern = dict[Name, Annotated[float, Field(allow_inf_nan=False)]]


class AdapterConfig(BaseModel):
    """The fields that say what an adapter's tensors mean; PEFT's other fields are left unread.

    Attributes:
        peft_type: The kind of adapter.
        task_type: The kind of model; without one, PEFT silently ignores a prompt.
        base_model_name_or_path: What the adapter was trained for.
        num_virtual_tokens: Tokens of a prompt or prefix.
        num_transformer_submodules: Parts of a prompt's rows; PEFT reads the first, the encoder's.
        r: Rank of low-rank factors.
        lora_alpha: Their scale is ``lora_alpha / r``.
        use_rslora: It is ``lora_alpha / sqrt(r)``.
        rank_pattern: Name of a module -> its own rank.
        alpha_pattern: Name of a module -> its own alpha.
        target_modules: Names (or ends of names) of the modules that are changed; a text is a regular expression.
        feedforward_modules: Those whose input is scaled by IA3, and not their output.
        fan_in_fan_out: Whether the changed modules keep their weights as (in, out), which GPT-2's do.
        num_layers: Layers that have keys and values of a prefix.
        num_attention_heads: Heads of keys and values in a layer.
        token_dim: Width of keys, and of values, in a layer, all heads together; of a prompt the width of a vector.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    peft_type: str
    task_type: str | None = None
    base_model_name_or_path: Annotated[str, Field(max_length=4096)] | None = None
    num_virtual_tokens: Count | None = None
    num_transformer_submodules: Literal[1, 2] | None = None
    r: Count = 8
    lora_alpha: float = Field(8, allow_inf_nan=False)
    use_rslora: bool = False
    rank_pattern: Pattern | None = None
    alpha_pattern: Pattern | None = None
    target_modules: Names | Name | None = None
    feedforward_modules: Names | Name | None = None
    fan_in_fan_out: bool = False
    num_layers: Count | None = None
    num_attention_heads: Count | None = None
    token_dim: Count | None = None

    @property
    def rows(self) -> int:
        """Rows of a prompt's tensor."""
        parts = self.num_transformer_submodules or (2 if self.task_type == "SEQ_2_SEQ_LM" else 1)
        return (self.num_virtual_tokens or 0) * parts

    def rank(self, path: str) -> int | None:
        """Return the rank of the module ``path``; None: a regular expression may say another one."""
        value, is_sure = _look_up(self.rank_pattern, path, self.r)
        return int(value) if is_sure else None

    def scale(self, path: str, rank: int) -> float:
        """Return what multiplies ``B A`` of the module ``path``.

        Raises:
            FormatError: A regular expression decides it.
        """
        alpha, is_sure = _look_up(self.alpha_pattern, path, self.lora_alpha)
        if not is_sure:
            raise FormatError(
                f"alpha_pattern of {CONFIG} holds regular expressions, which are not run for a file that anybody may "
                "have written: write the modules' names there"
            )
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, path: str) -> bool:
        """Whether PEFT puts the adapter on module ``path``, as far as names without a regular expression say."""
        return not isinstance(self.target_modules, tuple) or _ends_in(path, self.target_modules)

    def scales_input(self, path: str) -> bool | None:
        """Whether IA3 scales the input of module ``path``; None: a regular expression says."""
        names = self.feedforward_modules
        return None if isinstance(names, str) else _ends_in(path, names or ())


def read_config(folder: Path) -> AdapterConfig:
    """Return what ``adapter_config.json`` of ``folder`` says.

    Raises:
        FormatError: It is not of that format, or of a kind that is not read; one line.
        OSError: The operating system cannot read it.
    """
    path = folder / CONFIG
    content = read_json(path, LIMITS)
    try:
        return parse_config(content)
    except FormatError as error:
        raise FormatError(f"'{shown(path)}' {error}") from error


def parse_config(content: Any) -> AdapterConfig:
    """Return what the decoded JSON says. Raises FormatError, whose line begins with a verb."""
    if not isinstance(content, Mapping):
        raise FormatError("holds no JSON object")
    kind = content.get("peft_type")
    if kind not in PEFT_TYPES:
        raise FormatError(f"has peft_type {printable(kind, 40)!r}; read are {', '.join(PEFT_TYPES)}")
    if kind == "LORA":
        _check_variant(content)
    try:
        config = AdapterConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = printable(".".join(map(str, first["loc"][:2])), 80)
        raise FormatError(f"is wrong in {place}: {printable(first['msg'], 120)}") from error
    if config.task_type is not None and config.task_type not in TASK_TYPES:
        raise FormatError(f"has task_type '{printable(config.task_type, 40)}'; PEFT knows {', '.join(TASK_TYPES)}")
    if kind not in ("LORA", "IA3") and config.num_virtual_tokens is None:
        raise FormatError("says no num_virtual_tokens, the number of the prompt's tokens")
    if kind == "PREFIX_TUNING" and config.task_type == "SEQ_2_SEQ_LM":
        raise FormatError(
            "is a prefix for an encoder-decoder, of which PEFT gives the decoder's layers every second one's keys and "
            "values and leaves out the others: use a soft prompt"
        )
    return config


# ------------------------------------------------------------------------------------------------- internals


def _check_variant(content: Mapping[str, Any]) -> None:
    """Raise FormatError for a variant of LoRA, and for a start that has PEFT change the base model's own matrices."""
    if variants := [name for name in UNREAD if content.get(name)]:
        raise FormatError(f"uses {variants[0]}, a variant of LoRA that is not read: merge it into the model with PEFT")
    if content.get("bias", "none") != "none":
        raise FormatError(f"has bias {printable(content['bias'], 40)!r}: trained biases are not read, only 'none'")
    start = content.get("init_lora_weights", True)
    if not (start is None or isinstance(start, bool | str)) or start not in HARMLESS_STARTS:
        raise FormatError(
            f"has init_lora_weights {printable(start, 40)!r}, for which PEFT changes the base model itself: save it "
            "with path_initial_model_for_weight_conversion first"
        )


def _look_up(pattern: Mapping[str, float] | None, path: str, otherwise: float) -> tuple[float, bool]:
    """Return the value for ``path``, and whether it is certain: no expression before it could have matched."""
    is_sure = True
    for key, value in (pattern or {}).items():
        if not LITERAL.fullmatch(key):
            is_sure = False
        elif path == key.removeprefix("^") or (not key.startswith("^") and path.endswith("." + key)):
            return value, is_sure
    return otherwise, is_sure


def _ends_in(path: str, names: tuple[str, ...]) -> bool:
    return any(path == name or path.endswith("." + name) for name in names)
