"""Messages of a secure sum: dicts of names, numbers, bytes, and dicts and lists of these.

Every message says its kind and carries a label of its terms (run, round, attempt, broadcast, cohort). Nothing in it is
believed before it is checked here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from promptfed.errors import SecureSumError
from promptfed.printable import printable
from promptfed.privacy.channel_keys import KEY_BYTES, SIGNATURE_BYTES, Identity, KeyPair, is_signed
from promptfed.privacy.sum_terms import SumTerms

Message = dict[str, Any]
PUBLIC_BYTES = 2 * KEY_BYTES + SIGNATURE_BYTES


@dataclass(frozen=True)
class PublicKeys:
    """What a client shows of itself in an attempt: a key for sealed messages, one for masks, and its signature."""

    channel: bytes
    mask: bytes
    signature: bytes

    @classmethod
    def signed_by(cls, identity: Identity, terms: SumTerms, client: int, channel: KeyPair, mask: KeyPair) -> PublicKeys:
        """Return the public halves with the signature of ``identity`` over them, the client and all terms."""
        keys = cls(channel.public, mask.public, b"")
        return cls(keys.channel, keys.mask, identity.sign(keys._content(terms, client)))

    @classmethod
    def unpacked(cls, content: bytes) -> PublicKeys:
        """Return what ``packed`` made these bytes of."""
        return cls(content[:KEY_BYTES], content[KEY_BYTES : 2 * KEY_BYTES], content[2 * KEY_BYTES :])

    @property
    def packed(self) -> bytes:
        """128 bytes."""
        return self.channel + self.mask + self.signature

    def check(self, identity: bytes, terms: SumTerms, client: int) -> None:
        """Raise SecureSumError unless who has the public ``identity`` signed these keys for these terms."""
        if not is_signed(identity, self.signature, self._content(terms, client)):
            raise SecureSumError(f"the keys of client {client} are not signed by it for this round and broadcast")

    def _content(self, terms: SumTerms, client: int) -> bytes:
        return b"promptfed secure sum: keys" + terms.digest + number(client) + self.channel + self.mask


def check_keys(keys: Mapping[int, PublicKeys], terms: SumTerms, identities: Mapping[int, bytes]) -> None:
    """Raise SecureSumError for fewer clients than are needed, keys that stand there twice, or a false signature."""
    if len(keys) < terms.threshold:
        raise SecureSumError(f"keys of {len(keys)} clients are too few; this sum needs {terms.threshold}")
    every = [key for each in keys.values() for key in (each.channel, each.mask)]
    if len(set(every)) < len(every):
        raise SecureSumError("two keys are the same; somebody stands for two clients")
    for client, each in keys.items():
        each.check(identities[client], terms, client)


def keys_context(terms: SumTerms, keys: Mapping[int, PublicKeys]) -> bytes:
    """Return SHA-256 of the terms and of everybody's keys."""
    parts = (number(client) + keys[client].channel + keys[client].mask for client in sorted(keys))
    return hashlib.sha256(b"keys" + terms.digest + b"".join(parts)).digest()


def mask_context(keys: bytes, senders: Iterable[int]) -> bytes:
    """Return SHA-256 of the ``keys`` context and of those who shared their secrets: what all masks depend on."""
    return hashlib.sha256(b"masks" + keys + b"".join(map(number, sorted(senders)))).digest()


def commitment(context: bytes, client: int, seed: bytes) -> bytes:
    """Return what a client shows of its seed beforehand, so that a wrong one is seen when it is recovered."""
    return hashlib.sha256(b"seed" + context + number(client) + seed).digest()


def direction(context: bytes, sender: int, receiver: int) -> bytes:
    """Return the header of what ``sender`` seals for ``receiver``."""
    return b"share" + context + number(sender) + number(receiver)


def survivors_content(terms: SumTerms, senders: Iterable[int], survivors: Iterable[int]) -> bytes:
    """Return what a client signs: that, of those who shared their secrets, these are the survivors."""
    lists = (b"".join(map(number, sorted(each))) for each in (senders, survivors))
    return b"promptfed secure sum: survivors" + terms.digest + b"".join(hashlib.sha256(each).digest() for each in lists)


def number(value: int) -> bytes:
    """Return eight bytes."""
    return value.to_bytes(8, "big")


# ------------------------------------------------------------------------------------------------ to and fro


def made(kind: str, terms: SumTerms, **content: Any) -> Message:
    """Return a message."""
    return {"kind": kind, "terms": terms.label, **content}


def checked(message: object, kind: str, terms: SumTerms, *names: str) -> Message:
    """Return ``message`` if it is of this kind and these terms, and holds ``names`` and nothing else.

    Raises:
        SecureSumError: It is another.
    """
    if not isinstance(message, Mapping) or message.get("kind") != kind:
        shown = message.get("kind") if isinstance(message, Mapping) else type(message).__name__
        raise SecureSumError(f"a message '{kind}' was due, and '{printable(shown, 40)}' came")
    if message.get("terms") != terms.label:
        raise SecureSumError(
            f"a message '{kind}' is not of round {terms.round}, attempt {terms.attempt}, with the same broadcast, "
            "cohort and options"
        )
    if set(message) != {"kind", "terms", *names}:
        raise SecureSumError(f"a message '{kind}' does not hold {', '.join(names)} alone")
    return dict(message)


def content(message: Message, name: str, length: int) -> bytes:
    """Return the bytes ``name``, of which there must be ``length``."""
    value = message[name]
    if not isinstance(value, bytes) or len(value) != length:
        raise SecureSumError(f"'{name}' of a message '{message['kind']}' is not {length} bytes")
    return value


def table(message: Message, name: str, clients: Collection[int], length: int) -> dict[int, bytes]:
    """Return the entries ``name``, client -> ``length`` bytes, of some of ``clients``."""
    value, known = message[name], {str(client): client for client in clients}
    if not isinstance(value, Mapping):
        raise SecureSumError(f"'{name}' of a message '{message['kind']}' is not a table of clients")
    for key, entry in value.items():
        if key not in known:
            raise SecureSumError(f"'{name}' of a message '{message['kind']}' has an entry of '{printable(key, 40)}'")
        if not isinstance(entry, bytes) or len(entry) != length:
            raise SecureSumError(f"'{name}' of a message '{message['kind']}' has entries that are not {length} bytes")
    return {known[key]: entry for key, entry in value.items()}


def listed(message: Message, name: str, clients: Collection[int]) -> set[int]:
    """Return the list ``name`` of some of ``clients``, each once."""
    value = message[name]
    if not isinstance(value, (list, tuple)) or any(type(each) is not int for each in value):
        raise SecureSumError(f"'{name}' of a message '{message['kind']}' is not a list of clients")
    if len(set(value)) < len(value):
        raise SecureSumError(f"'{name}' of a message '{message['kind']}' names a client twice")
    if outside := set(value) - set(clients):
        raise SecureSumError(f"'{name}' of a message '{message['kind']}' names {min(outside)}, which has no part in it")
    return set(value)


def entries(values: Mapping[int, bytes]) -> dict[str, bytes]:
    """Return a table as it travels."""
    return {str(client): value for client, value in values.items()}


def nbytes(message: object) -> int:
    """Return about how many bytes a message takes: its names and bytes, and eight for a number."""
    if isinstance(message, Mapping):
        return sum(nbytes(key) + nbytes(value) for key, value in message.items())
    if isinstance(message, (list, tuple)):
        return sum(map(nbytes, message))
    if isinstance(message, str):
        return len(message.encode())
    return len(message) if isinstance(message, bytes) else 8
