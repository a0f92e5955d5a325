"""A folder of PEFT as what a run begins with: kept as plain tensors, and put into a method's own terms at the start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from promptfed.errors import ConfigError, FormatError
from promptfed.language_models.insert import Factors, Insert
from promptfed.method import Method
from promptfed.peft_format.adapter import Adapter
from promptfed.peft_format.from_kind import HEAD as HEAD_TENSORS
from promptfed.peft_format.names import HEAD
from promptfed.peft_format.reading import read_adapter
from promptfed.printable import printable
from promptfed.prompt_state import PromptState, tensors_under
from promptfed.prompts.language_method import LanguageMethod
from promptfed.readers.files import MEGABYTE
from promptfed.readers.tensors import read_tensors

MARK = "adapter/"
"""How the names of all tensors begin that were read from an adapter; those of another run's prompt never do."""
SOFT, PREFIX, LOW_RANK, IA3 = f"{MARK}soft", f"{MARK}prefix", f"{MARK}low_rank/", f"{MARK}ia3/"
A, B = "/A", "/B"
MOST_HEAD = 500 * MEGABYTE


def adapter_state(folder: Path) -> tuple[PromptState, str]:
    """Return the adapter in ``folder`` as named tensors, with scales in them, and a few words on it.

    Raises:
        ConfigError: It is none that is read; one line.
    """
    try:
        adapter = read_adapter(folder)
        head = read_tensors(folder / HEAD, MOST_HEAD) if (folder / HEAD).exists() else {}
    except FormatError as error:
        raise ConfigError(f"init cannot be read: {error}") from error
    tensors = _named(adapter) | {f"{MARK}{name}": t for name, t in head.items() if name.startswith(HEAD_TENSORS)}
    return PromptState(tensors), f"adapter {printable(folder.name)} ({adapter.config.peft_type})"


def is_adapter_state(state: Mapping[str, Tensor]) -> bool:
    """Whether ``state`` is what ``adapter_state`` made."""
    return any(name.startswith(MARK) for name in state)


def shared_from_adapter(method: Method, state: PromptState) -> PromptState:
    """Return the shared prompt of ``method`` that makes the insert of an adapter; else it is as at its own start.

    Raises:
        ConfigError: The method does not start from such an adapter.
    """
    usual = method.init_shared()
    if not isinstance(method, LanguageMethod):
        raise ConfigError(
            f"init is an adapter of a language model, and {method.name} trains {method.trains}: use a method for "
            "language models (promptfed list methods)"
        )
    try:
        values = method.kind.start_from(_insert(state))
    except ConfigError as error:
        raise ConfigError(f"init does not fit {method.name}: the adapter {error}") from error
    if absent := [name for name in values if name not in usual]:
        raise ConfigError(
            f"init does not fit {method.name}, which shares no '{printable(absent[0], 120)}': the adapter's would be "
            f"lost; use --method {'fedit' if any(name.startswith(LOW_RANK) for name in state) else 'fedprompt'}"
        )
    head = {name.removeprefix(MARK): t for name, t in state.items() if name.startswith(MARK + HEAD_TENSORS)}
    return PromptState({**usual, **values, **{name: t for name, t in head.items() if name in usual}})


# ------------------------------------------------------------------------------------------------- internals


def _named(adapter: Adapter) -> dict[str, Tensor]:
    insert = adapter.insert()
    tensors: dict[str, Tensor] = {}
    if insert.soft is not None:
        tensors[SOFT] = insert.soft
    if insert.prefix is not None:
        tensors[PREFIX] = insert.prefix
    for path, (factors,) in insert.low_rank.items():
        tensors[f"{LOW_RANK}{path}{A}"], tensors[f"{LOW_RANK}{path}{B}"] = factors.a, factors.scale * factors.b
    return tensors | {f"{IA3}{path}": values for path, values in insert.ia3.items()}


def _insert(state: PromptState) -> Insert:
    paths = [
        name.removeprefix(LOW_RANK).removesuffix(A) for name in state if name.startswith(LOW_RANK) and name.endswith(A)
    ]
    return Insert(
        soft=state.get(SOFT),
        prefix=state.get(PREFIX),
        low_rank={path: (Factors(state[f"{LOW_RANK}{path}{A}"], state[f"{LOW_RANK}{path}{B}"]),) for path in paths},
        ia3=tensors_under(state, IA3),
    )
