"""What promptfed knows of an option beside its type, default and description: a marker on the field of a config.

The command line, docs/configuration.md, ``promptfed list options`` and the comparison of runs read it, so an option is
described in one place:

    rounds: Annotated[int, Option("federation", change="raised", common=True)] = Field(20, ge=1, description="...")
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import BaseModel

GROUPS = {
    "task": "Task and data",
    "method": "Method",
    "model": "Frozen model",
    "oracle": "Black box",
    "federation": "Federation",
    "aggregator": "Aggregation",
    "privacy": "Privacy",
    "place": "Where the work runs",
    "run": "The run",
    "attack": "Attack",
    "personalize": "Personalisation",
}
"""Group of options -> its title, in the order in which they are shown."""
Change = Literal["never", "raised", "moved", "free"]


@dataclass(frozen=True)
class Option:
    """Marker in ``Annotated`` of a field.

    Args:
        group: One of ``GROUPS``. Two runs that agree in "task" have the same data, in "model" and "oracle" the same
            model.
        change: How a run may go on with another value. "never": not at all. "raised": with a larger one. "moved": the
            same thing in another place, which is compared by its fingerprint. "free": with any, because it says where
            and how fast the work is done, or what it may cost. All but "free" options count for the identity of a run.
        flag: Whether the command line has a flag of that name; ``--set`` always works.
        common: Whether ``--help`` shows the flag.
        default: How the default is shown, where its value does not say it.
        choices: Kind of ``promptfed list`` that has the values, for help and shell completion.
        metavar: How a value is shown; "DIR" and "FILE" are paths.
        recorded: Whether promptfed writes it down, and nobody chooses it.
        in_bundle: Of an oracle: whether a bundle says it. The others are the user's own: keys, files, budgets.
    """

    group: str
    change: Change = "never"
    flag: bool = True
    common: bool = False
    default: str = ""
    choices: str = ""
    metavar: str = ""
    recorded: bool = False
    in_bundle: bool = False

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"option group '{self.group}' is none of {', '.join(GROUPS)}")

    @property
    def counts(self) -> bool:
        """Whether two runs that differ in it are two runs."""
        return self.change != "free"


@cache
def options_of(model: type[BaseModel]) -> dict[str, Option]:
    """Return name -> marker of every field of ``model``. Raises TypeError for a field that has none."""
    markers = {}
    for name, field in model.model_fields.items():
        marker = next((each for each in field.metadata if isinstance(each, Option)), None)
        if marker is None:
            raise TypeError(
                f"{model.__name__}.{name} has no Option(...) in its annotation: promptfed/option.py says how"
            )
        markers[name] = marker
    return markers


def in_groups(model: type[BaseModel], *groups: str) -> tuple[str, ...]:
    """Return the names of the options of ``model`` in ``groups``."""
    return tuple(name for name, option in options_of(model).items() if option.group in groups)


def changing(model: type[BaseModel], *kinds: Change) -> tuple[str, ...]:
    """Return the names of the options of ``model`` that may change in one of these ways."""
    return tuple(name for name, option in options_of(model).items() if option.change in kinds)


def resumable(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the names of the options of ``model`` that a user may change when a run goes on."""
    return tuple(name for name, option in options_of(model).items() if option.change != "never" and not option.recorded)
