"""The messages of a secure sum as they travel: those of promptfed.privacy.sum_messages, with bytes in hexadecimal.

The masked words of a site, which are many, travel as an array.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, StringConstraints

from promptfed.deployment.codec import Envelope
from promptfed.deployment.fields import MOST_SITES, Name, Number
from promptfed.deployment.messages import Message, RunKey, SiteAgreement
from promptfed.errors import DeploymentError
from promptfed.prompt_state import PromptState

Leg = Literal["keys", "shares", "masked", "consent", "unmask"]
Octets = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$", max_length=1_000)]
Table = Annotated[dict[Name, Octets], Field(max_length=MOST_SITES)]
Clients = Annotated[tuple[Number, ...], Field(max_length=MOST_SITES)]
WORDS, MASKED = "words", "masked"


class SumMessage(Message):
    """A message of the protocol: its kind, and its content without the masked words."""

    kind: Name
    content: Annotated[dict[Name, Octets | Table | Clients], Field(max_length=3)]

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Self:
        """Write ``message`` in words."""
        content = {name: _written(value) for name, value in message.items() if name not in ("kind", WORDS)}
        return cls.create(kind=message["kind"], content=content)

    def opened(self, masked: PromptState | None = None) -> dict[str, Any]:
        """Return the message that ``of`` wrote, with its ``masked`` words."""
        message = {name: _read(value) for name, value in self.content.items()}
        if masked:
            message[WORDS] = masked[WORDS].numpy().astype("<i4").tobytes()
        return {"kind": self.kind, **message}


class Sum(Message):
    """Ask a site for its part in one leg of a secure sum.

    Attributes:
        run: The name of the run.
        stage: The method.
        client: The number of the client.
        round: The round whose changes are summed.
        leg: What to do.
        cohort: The clients that were asked to train, in rising order.
        message: What the server sends in this leg; none in the first.
    """

    run: RunKey
    stage: Name
    client: Number
    round: Number
    leg: Leg
    cohort: Clients
    message: SumMessage | None = None


class SumAnswer(Message):
    """A site's part in a leg. Its masked words travel with the message, as an array."""

    client: Number
    round: Number
    message: SumMessage


def array_of(message: Mapping[str, Any]) -> dict[str, PromptState]:
    """Return the masked words of ``message`` as the prompt of a message; nothing in other legs."""
    if WORDS not in message:
        return {}
    words = torch.from_numpy(np.frombuffer(message[WORDS], "<i4").astype(np.int32))
    return {MASKED: PromptState({WORDS: words})}


def answer_of(envelope: Envelope[SumAnswer], client: int, round: int) -> dict[str, Any]:
    """Return the message of the protocol in a site's answer.

    Raises:
        DeploymentError: It is another client's or another round's, or its array is not one of masked words.
    """
    words, masked = envelope.words, envelope.parts.get(MASKED)
    if (words.client, words.round) != (client, round):
        raise DeploymentError(f"it is client {words.client}'s of round {words.round}")
    if set(envelope.parts) - {MASKED} or (masked is not None and not _is_words(masked)):
        raise DeploymentError("an answer in a secure sum holds an array that is not one of masked words")
    return words.message.opened(masked)


def name_of_run(agreement: SiteAgreement, stage: str) -> str:
    """Return the run's name in the terms of a secure sum. It holds a hash of all that the sites agreed on."""
    text = json.dumps([stage, agreement.model_dump(mode="json")], sort_keys=True, separators=(",", ":"))
    return f"{agreement.run} {hashlib.sha256(text.encode()).hexdigest()}"


def _is_words(masked: PromptState) -> bool:
    return set(masked) == {WORDS} and masked[WORDS].dtype == torch.int32 and masked[WORDS].ndim == 1


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: each.hex() for name, each in value.items()}
    return value.hex() if isinstance(value, bytes) else tuple(value)


def _read(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: bytes.fromhex(each) for name, each in value.items()}
    return bytes.fromhex(value) if isinstance(value, str) else value
