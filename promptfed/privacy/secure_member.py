"""A client of a secure sum, in five legs (Bonawitz et al. 2017, with the broadcast bound to the masks)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from promptfed.errors import FormatError, SecureSumError
from promptfed.privacy import sum_messages as messages
from promptfed.privacy.channel_keys import (
    KEY_BYTES,
    SEAL_BYTES,
    SIGNATURE_BYTES,
    Identity,
    KeyPair,
    derived,
    is_signed,
    seal,
    unseal,
)
from promptfed.privacy.masks import pair_mask, self_mask, to_bytes
from promptfed.privacy.noise_shares import check_shares, noise_words
from promptfed.privacy.shamir import SHARE_BYTES, split
from promptfed.privacy.sum_messages import PUBLIC_BYTES, Message, PublicKeys
from promptfed.privacy.sum_terms import SumTerms
from promptfed.readers.json_reader import JsonLimits, parse_json

STAGES = ("new", "keys", "shares", "masked", "consent", "done")
"""A member after its last leg; ``done`` knows no secrets any more."""
LIMITS = JsonLimits(depth=4)


class Member:
    """One client in one attempt: ``keys``, ``shares``, ``masked``, ``consent``, ``unmask``, once each and in turn.

    A leg takes a message of the server and returns one for it. What it refuses raises SecureSumError, gives nothing
    away and leaves the member as it was. A client that is a new process at each leg writes ``state()`` before it sends
    an answer, and deletes what it wrote when it is done or has given up. One that lost its state has dropped out.

    Python cannot overwrite memory: ``wipe`` lets go of the secrets, and the interpreter reuses their place.

    Args:
        client: Its number.
        terms: As it makes them itself: the digest is that of the broadcast that it was really sent.
        identity: Its own.
        identities: The public identities of the whole cohort, which it has from elsewhere than from the server.

    Raises:
        SecureSumError: It is not of the cohort, an identity is missing, stands there twice or is not its own, or the
            noise of the terms does not go with their values.
    """

    def __init__(self, client: int, terms: SumTerms, identity: Identity, identities: Mapping[int, bytes]) -> None:
        if client not in terms.cohort:
            raise SecureSumError(f"client {client} is not of this cohort")
        if unknown := [each for each in terms.cohort if each not in identities]:
            raise SecureSumError(f"client {unknown[0]} has no identity here; it must come from its owner")
        if len({identities[each] for each in terms.cohort}) < len(terms.cohort):
            raise SecureSumError("two clients have the same identity")
        if identities[client] != identity.public:
            raise SecureSumError(f"the identity of client {client} is another one here than it has itself")
        if terms.noise:
            check_shares(terms.size, terms.fixed, terms.honest)
        self.client, self.terms, self.stage = client, terms, "new"
        self._identity, self._identities = identity, identities
        self.wipe()
        self.stage = "new"

    def __repr__(self) -> str:
        return f"<member {self.client} of a secure sum over {len(self.terms.cohort)} clients: {self.stage}>"

    def wipe(self) -> None:
        """Let go of all secrets; the member is done."""
        self.stage = "done"
        self._channel = self._mask = KeyPair(b"", b"")
        self._seed = b""
        self._keys: dict[int, PublicKeys] = {}
        self._shares: dict[int, bytes] = {}
        self._survivors: set[int] = set()

    def keys(self) -> Message:
        """Return fresh public keys, signed for these terms."""
        self._must_be("new")
        self._channel, self._mask = KeyPair.new(), KeyPair.new()
        own = PublicKeys.signed_by(self._identity, self.terms, self.client, self._channel, self._mask)
        self._keys, self.stage = {self.client: own}, "keys"
        return messages.made("keys", self.terms, keys=own.packed)

    def shares(self, message: object) -> Message:
        """Return, for each other client, a share of this one's secrets that only that client can read.

        Args:
            message: ``all keys``: everybody's, this client's own among them.

        Raises:
            SecureSumError: A signature is false, keys are missing or stand there twice, or they are too few.
        """
        self._must_be("keys")
        fields = messages.checked(message, "all keys", self.terms, "keys")
        packed = messages.table(fields, "keys", self.terms.cohort, PUBLIC_BYTES)
        keys = {client: PublicKeys.unpacked(each) for client, each in sorted(packed.items())}
        if keys.get(self.client) != self._keys[self.client]:
            raise SecureSumError("this client's own keys are not among those of all")
        messages.check_keys(keys, self.terms, self._identities)
        seed, context = secrets.token_bytes(KEY_BYTES), messages.keys_context(self.terms, keys)
        of_seed = split(seed, keys, self.terms.threshold)
        of_key = split(self._mask.private, keys, self.terms.threshold)
        shares = {client: of_seed[client] + of_key[client] for client in keys}
        sealed = {}
        for peer in keys.keys() - {self.client}:
            header = messages.direction(context, self.client, peer)
            sealed[peer] = seal(self._channel.secret(keys[peer].channel, header), shares[peer], header)
        self._keys, self._seed, self._shares, self.stage = keys, seed, {self.client: shares[self.client]}, "shares"
        proof = messages.commitment(context, self.client, seed)
        return messages.made("shares", self.terms, seed=proof, to=messages.entries(sealed))

    def masked(self, message: object, values: npt.ArrayLike, weight: int = 1, key: bytes | None = None) -> Message:
        """Return ``weight`` times ``values`` as integers, with this client's noise, under masks that cancel in the sum.

        Args:
            message: ``shares``: what the others sealed for this client.
            values: ``(size,)``; those beyond the bound are cut to it (``terms.fixed.beyond`` counts them).
            weight: From 1 to the largest of the terms.
            key: 32 secret bytes, used for this alone, that rounding and noise come from; by default fresh ones, so that
                nobody can take the noise away afterwards.

        Raises:
            SecureSumError: A share is of another round or was changed, they are too few, or the values are not finite
                or not as many as the terms say.
        """
        self._must_be("shares")
        fields = messages.checked(message, "shares", self.terms, "from")
        sealed = messages.table(fields, "from", self._keys.keys() - {self.client}, 2 * SHARE_BYTES + SEAL_BYTES)
        if (count := len(sealed) + 1) < self.terms.threshold:
            raise SecureSumError(f"shares of {count} clients are too few; this sum needs {self.terms.threshold}")
        shares, keys = dict(self._shares), messages.keys_context(self.terms, self._keys)
        for sender, each in sealed.items():
            header = messages.direction(keys, sender, self.client)
            try:
                shares[sender] = unseal(self._channel.secret(self._keys[sender].channel, header), each, header)
            except SecureSumError as error:
                raise SecureSumError(f"client {sender}'s shares are refused: {error}") from error
        reals = np.asarray(values, dtype=np.float64)
        if reals.shape != (self.terms.size,):
            raise SecureSumError(f"values of shape {reals.shape} are not the {self.terms.size} of this sum")
        key = secrets.token_bytes(KEY_BYTES) if key is None else key
        words = self.terms.fixed.encode(reals, weight, derived(key, b"rounding"))
        if self.terms.noise:
            words += noise_words(derived(key, b"noise"), len(words), self.terms.fixed.noise_steps)
        if self.terms.max_weight > 1:
            words = np.append(words, np.uint32(weight))
        context = messages.mask_context(keys, shares)
        words = words + self_mask(self._seed, context, self.client, len(words))
        for peer in sealed:
            words += pair_mask(self._mask, self._keys[peer].mask, context, self.client, peer, len(words))
        self.wipe()  # of all secrets, unmasking needs the others' shares alone
        self._shares, self.stage = shares, "masked"
        return messages.made("masked", self.terms, words=to_bytes(words))

    def consent(self, message: object) -> Message:
        """Return this client's signature under the list of survivors, the only one that it signs in this attempt.

        Args:
            message: ``survivors``: whose values arrived, and who is lost.

        Raises:
            SecureSumError: It asks for both shares of a client, for one that has no part in the sum, or counts fewer
                survivors than the threshold, or not this client.
        """
        self._must_be("masked")
        fields = messages.checked(message, "survivors", self.terms, "survivors", "lost")
        survivors = messages.listed(fields, "survivors", self._shares)
        lost = messages.listed(fields, "lost", self._shares)
        if both := survivors & lost:
            raise SecureSumError(f"the server asks for both secrets of client {min(both)}")
        if survivors | lost != self._shares.keys() or self.client not in survivors:
            raise SecureSumError("the server does not count every client as either a survivor or lost, or not this one")
        if len(survivors) < self.terms.threshold:
            raise SecureSumError(
                f"a sum over {len(survivors)} survivors is not given out; this one needs {self.terms.threshold}"
            )
        self._survivors, self.stage = survivors, "consent"
        content = messages.survivors_content(self.terms, self._shares, survivors)
        return messages.made("consent", self.terms, signature=self._identity.sign(content))

    def unmask(self, message: object) -> Message:
        """Return what takes the masks off the sum over the survivors, and forget everything.

        That is a share of the seed of each survivor, and a share of the mask key of each client that is lost: never
        both of one client. It is given out if as many clients as the threshold signed the same list as this one. Each
        signs one, so that no second list has so many, unless 2 t - n clients or more help the server.

        Args:
            message: ``consents``: the survivors' signatures, false ones perhaps among them.

        Raises:
            SecureSumError: Too few of them are signatures of survivors under the list that this client signed.
        """
        self._must_be("consent")
        fields = messages.checked(message, "consents", self.terms, "signatures")
        signatures = messages.table(fields, "signatures", self._survivors, SIGNATURE_BYTES)
        content = messages.survivors_content(self.terms, self._shares, self._survivors)
        count = sum(is_signed(self._identities[client], each, content) for client, each in signatures.items())
        if count < self.terms.threshold:
            raise SecureSumError(
                f"{count} clients signed the list of survivors that this one was sent; this sum needs "
                f"{self.terms.threshold}"
            )
        seeds = {client: self._shares[client][:SHARE_BYTES] for client in sorted(self._survivors)}
        keys = {client: self._shares[client][SHARE_BYTES:] for client in sorted(self._shares.keys() - self._survivors)}
        self.wipe()
        return messages.made("unmask", self.terms, seeds=messages.entries(seeds), keys=messages.entries(keys))

    def renewed(self, terms: SumTerms) -> Member:
        """Return a member for a later attempt of the same round, and end this one.

        Raises:
            SecureSumError: This one has sent its values already: the difference of two sums could show them, or
                ``terms`` are not a later attempt of the round.
        """
        if self.stage in ("masked", "consent", "done"):
            raise SecureSumError("values are sent once in a round: two sums could show one client by their difference")
        old = self.terms
        if (terms.run, terms.round) != (old.run, old.round) or terms.attempt <= old.attempt:
            raise SecureSumError("this is no later attempt of the same round")
        self.wipe()
        return Member(self.client, terms, self._identity, self._identities)

    # ---------------------------------------------------------------------------------------------- between legs

    def state(self) -> bytes:
        """Return all that the next leg needs, as JSON. It holds secrets, except when the member is done."""
        return json.dumps(
            {
                "client": self.client,
                "terms": self.terms.plain(),
                "stage": self.stage,
                "secrets": [each.hex() for each in (self._channel.private, self._mask.private, self._seed)],
                "keys": {str(client): each.packed.hex() for client, each in self._keys.items()},
                "shares": {str(client): each.hex() for client, each in self._shares.items()},
                "survivors": sorted(self._survivors),
            }
        ).encode()

    @classmethod
    def restored(cls, state: bytes, identity: Identity, identities: Mapping[int, bytes]) -> Member:
        """Return the member that ``state()`` was of.

        Raises:
            SecureSumError: The bytes are no state of a member.
        """
        try:
            fields: dict[str, Any] = parse_json(state, LIMITS)
            member = cls(fields["client"], SumTerms.of(fields["terms"]), identity, identities)
            channel, mask, seed = (bytes.fromhex(each) for each in fields["secrets"])
            if channel:
                member._channel, member._mask = KeyPair.of(channel), KeyPair.of(mask)
            member._seed, member.stage = seed, STAGES[STAGES.index(fields["stage"])]
            for client, packed in fields["keys"].items():
                member._keys[int(client)] = PublicKeys.unpacked(bytes.fromhex(packed))
            member._shares = {int(client): bytes.fromhex(each) for client, each in fields["shares"].items()}
            member._survivors = {int(client) for client in fields["survivors"]}
        except (FormatError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise SecureSumError("the state of a secure sum cannot be read: this client has dropped out") from error
        return member

    def _must_be(self, stage: str) -> None:
        if self.stage != stage:
            raise SecureSumError(f"client {self.client} cannot do this leg now: its last one was '{self.stage}'")
