"""The processors of a run, one after the other at the client, and in reverse order at the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptfed.config import validate
from promptfed.errors import ConfigError, ProcessorError
from promptfed.processors.base import PROCESSORS, Processor, Streams
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Update


@dataclass(frozen=True)
class Sending:
    """A client's update as it is sent, what each processor keeps at the client, and ``processor.figure`` -> value."""

    update: Update
    states: Mapping[str, PromptState]
    figures: Mapping[str, float]


class Pipeline:
    """Processors by name, in the order in which they act on an update at the client. Without any, nothing happens.

    ``seed`` is the run's, from which their random streams are drawn.
    """

    def __init__(self, processors: Mapping[str, Processor] | None = None, seed: int = 0) -> None:
        self.processors, self.seed = dict(processors or {}), seed

    @classmethod
    def build(cls, options: Sequence[Mapping[str, Mapping[str, Any]]], seed: int) -> Pipeline:
        """Return the processors that the run's option ``processors`` names. Raises ConfigError as ``resolved`` does."""
        entries = [(name, values) for entry in resolved(options) for name, values in entry.items()]
        return cls({n: PROCESSORS[n](PROCESSORS[n].Config.model_validate(values)) for n, values in entries}, seed)

    def __len__(self) -> int:
        return len(self.processors)

    @property
    def figures(self) -> tuple[str, ...]:
        """Return the names of all that a client may report of one update."""
        return tuple(f"{name}.{figure}" for name, processor in self.processors.items() for figure in processor.figures)

    @property
    def formats(self) -> Pipeline:
        """The processors that the server undoes: without them it cannot read an update, so a liar has these alone."""
        undone = {n: p for n, p in self.processors.items() if type(p).incoming is not Processor.incoming}
        return Pipeline(undone, self.seed)

    def outgoing(self, update: Update, broadcast: Broadcast, states: Mapping[str, PromptState]) -> Sending:
        """Process ``update`` at the client, of which each processor kept ``states`` after the update before.

        Raises:
            ProcessorError: One of them cannot act on it; one line that names it.
        """
        new_states: dict[str, PromptState] = {}
        figures: dict[str, float] = {}
        for name, processor in self.processors.items():
            streams = Streams(self.seed, name, broadcast.round, update.client)
            try:
                result = processor.outgoing(update, broadcast, states.get(name, NO_PROMPT), streams)
            except ProcessorError as error:
                raise ProcessorError(f"processor '{name}' {error}") from error
            update, new_states[name] = result.update, result.state
            figures |= {f"{name}.{figure}": float(value) for figure, value in result.figures.items()}
        return Sending(update, new_states, figures)

    def incoming(self, update: Update, broadcast: Broadcast) -> Update:
        """Return ``update`` as the method's own again, in float32, at the server.

        Raises:
            ProcessorError: It is not what the processors make; the end of a sentence that begins with the client.
        """
        for name, processor in reversed(self.processors.items()):
            streams = Streams(self.seed, name, broadcast.round, update.client)
            try:
                update = processor.incoming(update, broadcast, streams)
            except ProcessorError as error:
                raise ProcessorError(f"an update in which processor '{name}' {error}") from error
        return update

    def check(self, method: str, example: PromptState, broadcast: PromptState) -> PromptState:
        """Check that all can act on what ``method`` sends, and that the server gets that back.

        Args:
            method: The method's name, for messages.
            example: What a client sends in round 1: the right names, shapes and kinds of numbers.
            broadcast: What a client is sent in round 1.

        Returns:
            An example of what travels: as many bytes as an update has, without its meaning.

        Raises:
            ConfigError: One of them cannot act on it.
        """
        first = Broadcast(1, broadcast)
        update = Update(0, example, 1, 0.0, 0.0)
        for name, processor in self.processors.items():
            try:
                processor.check(update.shared, broadcast)
                update = processor.outgoing(update, first, NO_PROMPT, Streams(self.seed, name, 1, 0)).update
            except ProcessorError as error:
                raise ConfigError(
                    f"processor '{name}' does not go with method '{method}': it {error}; leave it out of processors, "
                    f"or put it before those that change what it needs"
                ) from error
        try:
            back = self.incoming(update, first).shared
        except ProcessorError as error:
            raise ConfigError(f"the server cannot read what processors make of method '{method}': {error}") from error
        if problem := example.mismatch(back):
            raise ConfigError(f"processors change what method '{method}' sends, and do not undo it: {problem}")
        return update.shared

    def summaries(self, figures: Sequence[Mapping[str, float]]) -> list[str]:
        """Return what each processor has to say about the ``figures`` of all updates of a run."""
        lines = []
        for name, processor in self.processors.items():
            subset = [
                {figure: each[f"{name}.{figure}"] for figure in processor.figures}
                for each in figures
                if all(f"{name}.{figure}" in each for figure in processor.figures)
            ]
            if subset and (line := processor.summary(subset)):
                lines.append(line)
        return lines


NO_PROCESSORS = Pipeline()


def resolved(options: Sequence[Mapping[str, Mapping[str, Any]]]) -> tuple[dict[str, dict[str, Any]], ...]:
    """Return the run's option ``processors`` with all defaults filled in.

    Raises:
        ConfigError: A processor or an option is unknown, has a bad value, or stands there twice.
    """
    filled: dict[str, dict[str, Any]] = {}
    for entry in options:
        for name, values in entry.items():
            if name in filled:
                raise ConfigError(f"processor '{name}' is named twice: each acts once on an update, so leave one out")
            filled[name] = validate(PROCESSORS[name].Config, values, f"{name} option").model_dump()
    return tuple({name: values} for name, values in filled.items())
