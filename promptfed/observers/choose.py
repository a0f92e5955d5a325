"""From what a user names to the observers of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from promptfed.config import validate
from promptfed.errors import ConfigError, FormatError, PromptFedError, reason
from promptfed.observers.base import OBSERVERS, Observer
from promptfed.printable import printable, without_password
from promptfed.readers.yaml_reader import parse_yaml

ObserverChoice = str | Observer | Mapping[str, Mapping[str, Any] | None]
"""A name ("wandb", "wandb:project=mine"), an observer, or names with their options."""
ObserverChoices = ObserverChoice | Iterable[ObserverChoice]


def build_observers(choices: ObserverChoices) -> list[Observer]:
    """Return the observers that ``choices`` name, each checked to be of use here.

    Args:
        choices: One or several. ``"wandb:project=mine,group=a"`` is ``{"wandb": {"project": "mine", "group": "a"}}``.

    Raises:
        ConfigError: An observer or an option is unknown, an observer is named twice, or its package is missing.
    """
    entries: list[ObserverChoice]
    if isinstance(choices, str | Observer | Mapping) or not isinstance(choices, Iterable):
        entries = [choices]
    else:
        entries = list(choices)
    observers = [observer for choice in entries for observer in _observers(choice)]
    labels = [observer.label for observer in observers]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ConfigError(f"observer '{printable(twice[0])}' is named twice: name it once, with all its options")
    for observer in observers:
        try:
            observer.check()
        except PromptFedError:
            raise
        except Exception as error:  # a plug-in's tracker may raise anything
            raise _unusable(observer.label, error) from error
    return observers


def _unusable(name: str, error: Exception) -> ConfigError:
    why = without_password(reason(error))
    return ConfigError(
        f"observer '{printable(name, 100)}' cannot be used here: {type(error).__name__}: {why}; leave it out"
    )


def _observers(choice: ObserverChoice) -> list[Observer]:
    if isinstance(choice, Observer):
        choice.label = choice.label or type(choice).__name__
        return [choice]
    if isinstance(choice, str):
        name, _, text = choice.partition(":")
        choice = {name: _options(choice, text)}
    if not isinstance(choice, Mapping):
        raise ConfigError(
            f"observer {printable(repr(choice), 100)}: give a name, a mapping of a name to its options, or an Observer"
        )
    for name, options in choice.items():
        if not isinstance(name, str) or not isinstance(options, Mapping | None):
            raise ConfigError(
                f"observer {printable(repr(choice), 100)}: give a mapping of a name to a mapping of its options"
            )
    return [_build(name, options or {}) for name, options in choice.items()]


def _build(name: str, options: Mapping[str, Any]) -> Observer:
    kind = OBSERVERS[name]
    config = validate(kind.Config, options, f"option of observer {printable(name)}:")
    try:
        observer = kind(config)
    except Exception as error:  # a plug-in's tracker may raise anything
        raise _unusable(name, error) from error
    observer.label = name
    return observer


def _options(choice: str, text: str) -> dict[str, Any]:
    """Parse ``"project=mine,group=a"`` as a mapping; values are read as YAML."""
    options = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                f"observer '{printable(choice, 200)}' must look like NAME or NAME:KEY=VALUE,KEY=VALUE, for example "
                "wandb:project=mine"
            )
        try:
            options[name.strip()] = parse_yaml(value)
        except FormatError as error:
            raise ConfigError(
                f"observer '{printable(choice, 200)}': the value of {name} is not YAML: {error}"
            ) from error
    return options
