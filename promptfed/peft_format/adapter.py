"""One adapter of PEFT as a value: its config, its tensors, and the insert that they make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from promptfed.errors import FormatError
from promptfed.inserts.base import MODULE
from promptfed.language_models.insert import Factors, Insert
from promptfed.peft_format.config import SOFT_TYPES, AdapterConfig
from promptfed.printable import printable

PROMPT = "prompt_embeddings"
"""The one tensor of a prompt or prefix."""
LORA_KEY = re.compile(re.escape(MODULE) + r"(?P<path>[^\s]+)\.lora_(?P<side>[AB])\.weight")
IA3_KEY = re.compile(re.escape(MODULE) + r"(?P<path>[^\s]+)\.ia3_l")
ADAPTER_MARKS = ("lora_", "ia3_l", "vera_", "prompt_embeddings", "hada_", "oft_")
"""What the names of tensors hold that belong to adapters; others are modules that were trained beside one."""

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter's config, and its tensors by the names that its file has.

    ``beside``: names of tensors of modules that were trained with it (heads of transformers), which are left out.

    Raises:
        FormatError: Tensors and config do not fit.
    """

    config: AdapterConfig
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_shapes(self.config, {name: tuple(tensor.shape) for name, tensor in self.tensors.items()})

    def __repr__(self) -> str:
        return f"<adapter {self.config.peft_type}: {len(self.tensors)} tensors>"

    @property
    def paths(self) -> tuple[str, ...]:
        """The modules that it changes, by their names in the base model; none of a prompt."""
        return tuple(sorted({path for path, _, _ in _places(self.config, self.tensors)}))

    def insert(self) -> Insert:
        """Return what a reading adds to the frozen model, as PEFT's ``forward`` does.

        Of the two halves that a prompt for an encoder-decoder has, PEFT reads the first, before the encoder's input.
        """
        config = self.config
        if config.peft_type in SOFT_TYPES:
            return Insert(soft=self.tensors[PROMPT][: config.num_virtual_tokens])
        if config.peft_type == "PREFIX_TUNING":
            return Insert(prefix=self.tensors[PROMPT])
        if config.peft_type == "IA3":
            return Insert(ia3={path: self.tensors[name] for path, _, name in _places(config, self.tensors)})
        return Insert(low_rank={path: (self._factors(path),) for path in self.paths})

    def _factors(self, path: str) -> Factors:
        a, b = (self.tensors[f"{MODULE}{path}.lora_{side}.weight"] for side in "AB")
        return Factors(a, b, self.config.scale(path, len(a)))


def is_beside(name: str) -> bool:
    """Whether the tensor ``name`` belongs to a module that was trained beside an adapter, such as a head."""
    return name.startswith("base_model.") and not any(mark in name for mark in ADAPTER_MARKS)


def check_shapes(config: AdapterConfig, shapes: Mapping[str, Shape]) -> None:
    """Check names and shapes of an adapter's tensors against its config, before any of them is decoded.

    Raises:
        FormatError: They do not fit; the line begins with a verb.
    """
    if not shapes:
        raise FormatError("holds no tensor of an adapter")
    if config.peft_type == "LORA":
        _check_factors(config, shapes)
    elif config.peft_type == "IA3":
        _check_scales(config, shapes)
    else:
        _check_prompt(config, shapes)


# ------------------------------------------------------------------------------------------------- internals


def _places(config: AdapterConfig, names: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Yield (module, "A" or "B" or "", name of the tensor). Raises FormatError for other tensors."""
    pattern = {"LORA": LORA_KEY, "IA3": IA3_KEY}.get(config.peft_type)
    for name in names if pattern else ():
        match = pattern.fullmatch(name) if pattern else None
        if match is None:
            raise FormatError(
                f"holds the tensor '{printable(name, 120)}', which is none of {config.peft_type} with .weight"
            )
        yield match["path"], match.groupdict().get("side", ""), name


def _check_prompt(config: AdapterConfig, shapes: Mapping[str, Shape]) -> None:
    if set(shapes) != {PROMPT}:
        others = printable(", ".join(sorted(shapes)), 120)
        raise FormatError(f"holds {others}; a {config.peft_type} holds '{PROMPT}' alone")
    shape = shapes[PROMPT]
    rows = config.num_virtual_tokens if config.peft_type == "PREFIX_TUNING" else config.rows
    if len(shape) != 2 or shape[0] != rows or not shape[1]:
        raise FormatError(f"has {PROMPT} of shape {shape}, and its config says {rows} rows")
    columns = (config.num_layers or 0) * 2 * (config.token_dim or 0)
    if config.peft_type == "PREFIX_TUNING" and columns and shape[1] != columns:
        raise FormatError(
            f"has {PROMPT} of shape {shape}, and its config says num_layers {config.num_layers} and token_dim "
            f"{config.token_dim}, which is {columns} numbers a token"
        )


def _check_factors(config: AdapterConfig, shapes: Mapping[str, Shape]) -> None:
    sides: dict[str, dict[str, Shape]] = {}
    for path, side, name in _places(config, shapes):
        sides.setdefault(path, {})[side] = shapes[name]
    for path, pair in sides.items():
        shown = printable(path, 120)
        if len(pair) != 2:
            raise FormatError(f"lacks lora_{'B' if 'A' in pair else 'A'} of module '{shown}'")
        a, b = pair["A"], pair["B"]
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or not all((*a, *b)):
            raise FormatError(f"has factors A {a} and B {b} for module '{shown}': they must be (r, in) and (out, r)")
        if not config.targets(path):
            raise FormatError(f"has factors for module '{shown}', which target_modules does not name: PEFT drops them")
        rank = config.rank(path)
        if rank is not None and rank != a[0]:
            raise FormatError(f"has factors of rank {a[0]} for module '{shown}', and its config says {rank}")
        config.scale(path, a[0])


def _check_scales(config: AdapterConfig, shapes: Mapping[str, Shape]) -> None:
    for path, _, name in _places(config, shapes):
        shape, of_input = shapes[name], config.scales_input(path)
        fits = {True: shape[:1] == (1,), False: shape[1:] == (1,), None: 1 in shape}[of_input]
        if len(shape) != 2 or not fits or not all(shape):
            rule = {True: "(1, in)", False: "(out, 1)", None: "(out, 1) or (1, in)"}[of_input]
            raise FormatError(f"has {shape} for module '{printable(path, 120)}', which must be {rule}")
        if not config.targets(path):
            raise FormatError(f"scales '{printable(path, 120)}', which target_modules does not name: PEFT drops that")
