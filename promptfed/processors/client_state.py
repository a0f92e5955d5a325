"""What processors keep at a client, as a part of its personal prompt that no method and no evaluation sees.

It is stored, sent to the client's process, and checkpointed with the personal prompt, so it is the client's own
and a resumed run finds it. Its tensors have names that begin with ``PREFIX``. A method may keep something in the same
way that it needs for training alone (the labels that a client has guessed): its names begin with ``MEMORY``, and the
method sees it when it trains. No evaluation and no export does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from promptfed.prompt_state import PromptState

PREFIX = "processor."
"""No method's tensors have it. ``processor.quantize.ctx`` is the tensor ``ctx`` of the processor ``quantize``."""
MEMORY = "memory."
"""Begins the names of what a method remembers at a client for its training."""


def prompt_of(personal: PromptState) -> PromptState:
    """Return the personal prompt itself, which a client deploys; the very object if there is nothing else in it."""
    return _without(personal, (PREFIX, MEMORY))


def trained_of(personal: PromptState) -> PromptState:
    """Return what a method gets to train with: the personal prompt and what the method remembers."""
    return _without(personal, (PREFIX,))


def _without(personal: PromptState, prefixes: tuple[str, ...]) -> PromptState:
    if not any(name.startswith(prefixes) for name in personal):
        return personal
    return PromptState({name: tensor for name, tensor in personal.items() if not name.startswith(prefixes)})


def states_of(personal: PromptState) -> dict[str, PromptState]:
    """Return processor -> what it keeps in ``personal``."""
    tensors: dict[str, dict[str, object]] = {}
    for name, tensor in personal.items():
        if name.startswith(PREFIX):
            processor, _, plain = name.removeprefix(PREFIX).partition(".")
            tensors.setdefault(processor, {})[plain] = tensor
    return {processor: PromptState(state) for processor, state in tensors.items()}  # type: ignore[arg-type]


def joined(prompt: PromptState, states: Mapping[str, PromptState]) -> PromptState:
    """Return ``prompt`` with what processors keep; the very object if they keep nothing."""
    tensors = {f"{PREFIX}{processor}.{name}": t for processor, state in states.items() for name, t in state.items()}
    return PromptState({**prompt, **tensors}) if tensors else prompt


class PromptsAlone(Mapping[int, PromptState]):
    """Client -> its personal prompt without what is kept beside it, read from ``personal`` when it is asked for."""

    def __init__(self, personal: Mapping[int, PromptState]) -> None:
        self.personal = personal

    def __getitem__(self, client: int) -> PromptState:
        return prompt_of(self.personal[client])

    def __iter__(self) -> Iterator[int]:
        return iter(self.personal)

    def __len__(self) -> int:
        return len(self.personal)
