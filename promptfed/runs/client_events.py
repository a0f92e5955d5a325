"""Fields of a client's reply in the event log, and the bytes that crossed the network for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from promptfed.prompt_state import PromptState
from promptfed.types import Reply


def client_event(stage: str, reply: Reply, broadcast_bytes: int) -> dict[str, Any]:
    """Return the fields of the event ``client``; ``broadcast_bytes`` is the serialised size of its broadcast."""
    return {
        "stage": stage,
        "round": reply.round,
        "client": reply.client,
        "failure": reply.failure,
        "loss": reply.update.loss,
        "accuracy": reply.update.accuracy,
        "samples": reply.update.samples,
        "bytes_up": bytes_up(reply),
        "bytes_down": bytes_down(reply, broadcast_bytes),
        "seconds": reply.seconds,
        **({} if reply.start_seconds is None else {"start_seconds": reply.start_seconds}),
        **({"processors": dict(reply.processor_figures)} if reply.processor_figures else {}),
        **({} if reply.epsilon is None else {"epsilon": reply.epsilon}),
        **reply.usage.recorded(),
    }


def sum_events(stage: str, replies: Iterable[Reply]) -> Iterator[dict[str, Any]]:
    """Yield the fields of the events ``sum``: what a secure sum cost each client that sent a part of it."""
    for reply in replies:
        if reply.sum_bytes_up or reply.sum_bytes_down:
            yield {
                "stage": stage,
                "round": reply.round,
                "client": reply.client,
                "bytes_up": reply.sum_bytes_up,
                "bytes_down": reply.sum_bytes_down,
            }


def processor_figures(events: Iterable[Mapping[str, Any]], stage: str) -> list[dict[str, float]]:
    """Return the outgoing processors' measurements of each update of ``stage`` that was used."""
    return [
        event["processors"]
        for event in events
        if event.get("event") == "client"
        and event.get("stage") == stage
        and not event.get("failure")
        and isinstance(event.get("processors"), dict)
    ]


def bytes_up(reply: Reply) -> int:
    """Return the bytes that the client sent: what crossed a network if any, else its update as serialised.

    A secure sum comes on top, once it is made.
    """
    return (reply.update.shared.nbytes if reply.bytes_up is None else reply.bytes_up) + reply.sum_bytes_up


def bytes_down(reply: Reply, broadcast_bytes: int) -> int:
    """Return the bytes that the client was sent: what crossed a network if any, else the broadcast as serialised.

    A secure sum comes on top, once it is made.
    """
    return (broadcast_bytes if reply.bytes_down is None else reply.bytes_down) + reply.sum_bytes_down


def broadcast_sizes(broadcasts: Mapping[int, PromptState]) -> dict[int, int]:
    """Return the bytes that each client is sent; a value sent to several is serialised once to count it."""
    sizes: dict[int, int] = {}
    return {client: sizes.setdefault(id(state), state.nbytes) for client, state in broadcasts.items()}
