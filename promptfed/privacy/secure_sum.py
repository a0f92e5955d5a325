"""The server of a secure sum: it learns the sum over those who answered, and nothing else of any of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from promptfed.errors import SecureSumError
from promptfed.privacy import sum_messages as messages
from promptfed.privacy.channel_keys import SEAL_BYTES, SIGNATURE_BYTES, KeyPair, is_signed
from promptfed.privacy.fixed_point import Reals
from promptfed.privacy.masks import WORD_BYTES, Words, from_bytes, pair_mask, self_mask
from promptfed.privacy.shamir import SHARE_BYTES, join, weights
from promptfed.privacy.sum_messages import PUBLIC_BYTES, Message, PublicKeys
from promptfed.privacy.sum_terms import DIGEST_BYTES, SumTerms


@dataclass(frozen=True, eq=False)
class SecureSum:
    """What comes out.

    Attributes:
        values: ``(size,)``, the sum of weight times values; off by ``terms.fixed.error_bound`` at most.
        weight: The sum of the weights.
        clients: Whose values are in it.
    """

    values: Reals
    weight: int
    clients: tuple[int, ...]


class Summation:
    """The server's side of an attempt: ``add`` takes the clients' answers, and five calls close the legs in turn.

    ``all_keys``, ``forwarded``, ``survivors`` and ``consents`` return what the clients are sent next; ``result`` is the
    end. Who has not answered when a leg is closed is lost, and what comes later is refused. An answer that ``add``
    refuses costs that client its part. If too few are left, closing a leg raises SecureSumError: nothing was learnt.

    Args:
        terms: The terms that the clients have too.
        identities: Their public identities, if the server knows them: then a false signature costs its sender alone,
            where otherwise every client refuses to go on.
    """

    def __init__(self, terms: SumTerms, identities: Mapping[int, bytes] | None = None) -> None:
        self.terms, self.identities = terms, identities
        self._leg = "keys"
        self._keys: dict[int, PublicKeys] = {}
        self._proofs: dict[int, bytes] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}
        self._total: Words = np.zeros(terms.words, dtype=np.uint32)
        self._survivors: set[int] = set()
        self._lost: set[int] = set()
        self._signatures: dict[int, bytes] = {}
        self._seeds: dict[int, dict[int, bytes]] = {}
        self._mask_keys: dict[int, dict[int, bytes]] = {}

    def __repr__(self) -> str:
        return f"<secure sum over {len(self.terms.cohort)} clients: in the leg of '{self._leg}'>"

    def add(self, client: int, message: object) -> None:
        """Take the answer of ``client``, which the transport knows as its sender, in the leg that is open.

        Raises:
            SecureSumError: It is late, false, a second one, or of a client that has no part in the leg.
        """
        if self._leg == "keys":
            self._add_keys(client, message)
        elif self._leg == "shares":
            self._add_shares(client, message)
        elif self._leg == "masked":
            self._add_masked(client, message)
        elif self._leg == "consent":
            self._add_consent(client, message)
        elif self._leg == "unmask":
            self._add_unmask(client, message)
        else:
            raise SecureSumError(f"an answer of client {client} came after the sum was closed")

    # ---------------------------------------------------------------------------------------------- the answers

    def _add_keys(self, client: int, message: object) -> None:
        self._expect(client, self.terms.cohort, self._keys)
        fields = messages.checked(message, "keys", self.terms, "keys")
        keys = PublicKeys.unpacked(messages.content(fields, "keys", PUBLIC_BYTES))
        present = {key for each in self._keys.values() for key in (each.channel, each.mask)}
        if keys.channel == keys.mask or present & {keys.channel, keys.mask}:
            raise SecureSumError(f"client {client} sent a key that is there already")
        if self.identities is not None:
            keys.check(self.identities[client], self.terms, client)
        self._keys[client] = keys

    def _add_shares(self, client: int, message: object) -> None:
        self._expect(client, self._keys, self._sealed)
        fields = messages.checked(message, "shares", self.terms, "seed", "to")
        sealed = messages.table(fields, "to", self._keys.keys() - {client}, 2 * SHARE_BYTES + SEAL_BYTES)
        if len(sealed) < len(self._keys) - 1:
            raise SecureSumError(f"client {client} shared its secrets with {len(sealed)} of {len(self._keys) - 1}")
        self._proofs[client] = messages.content(fields, "seed", DIGEST_BYTES)
        self._sealed[client] = sealed

    def _add_masked(self, client: int, message: object) -> None:
        self._expect(client, self._sealed, self._survivors)
        fields = messages.checked(message, "masked", self.terms, "words")
        self._total += from_bytes(messages.content(fields, "words", WORD_BYTES * self.terms.words))
        self._survivors.add(client)

    def _add_consent(self, client: int, message: object) -> None:
        self._expect(client, self._survivors, self._signatures)
        fields = messages.checked(message, "consent", self.terms, "signature")
        signature = messages.content(fields, "signature", SIGNATURE_BYTES)
        content = messages.survivors_content(self.terms, self._sealed, self._survivors)
        if self.identities is not None and not is_signed(self.identities[client], signature, content):
            raise SecureSumError(f"client {client} did not sign the list of survivors that it was sent")
        self._signatures[client] = signature

    def _add_unmask(self, client: int, message: object) -> None:
        self._expect(client, self._signatures, self._seeds)
        fields = messages.checked(message, "unmask", self.terms, "seeds", "keys")
        seeds = messages.table(fields, "seeds", self._survivors, SHARE_BYTES)
        mask_keys = messages.table(fields, "keys", self._lost, SHARE_BYTES)
        if seeds.keys() != self._survivors or mask_keys.keys() != self._lost:
            raise SecureSumError(f"client {client} left out shares that it was asked for")
        self._seeds[client], self._mask_keys[client] = seeds, mask_keys

    def _expect(self, client: int, part: Collection[int], answers: Collection[int]) -> None:
        if client not in part:
            raise SecureSumError(f"client {client} has no part in the leg of '{self._leg}'")
        if client in answers:
            raise SecureSumError(f"client {client} answered twice in the leg of '{self._leg}'")

    # -------------------------------------------------------------------------------------------- closing a leg

    def all_keys(self) -> Message:
        """Close the first leg and return what everybody in it is sent: all keys."""
        self._close("keys", len(self._keys), "shares")
        packed = {client: keys.packed for client, keys in sorted(self._keys.items())}
        return messages.made("all keys", self.terms, keys=messages.entries(packed))

    def forwarded(self) -> dict[int, Message]:
        """Close the second leg and return client -> what the others sealed for it, for those who are still there."""
        self._close("shares", len(self._sealed), "masked")
        senders = sorted(self._sealed)
        return {
            client: messages.made(
                "shares",
                self.terms,
                **{"from": messages.entries({s: self._sealed[s][client] for s in senders if s != client})},
            )
            for client in senders
        }

    def survivors(self) -> Message:
        """Close the third leg and return what the survivors are sent: who they are, and who is lost."""
        self._close("masked", len(self._survivors), "consent")
        self._lost = self._sealed.keys() - self._survivors
        lists = {"survivors": sorted(self._survivors), "lost": sorted(self._lost)}
        return messages.made("survivors", self.terms, **lists)

    def consents(self) -> Message:
        """Close the fourth leg and return what those in it are sent: all signatures under the list of survivors."""
        self._close("consent", len(self._signatures), "unmask")
        signatures = {client: self._signatures[client] for client in sorted(self._signatures)}
        return messages.made("consents", self.terms, signatures=messages.entries(signatures))

    def result(self) -> SecureSum:
        """Take the masks off and return the sum over the survivors.

        Raises:
            SecureSumError: Too few answered, their shares do not give what was agreed, or the result can be no sum.
        """
        self._close("unmask", len(self._seeds), "done")
        helpers = sorted(self._seeds)[: self.terms.threshold]
        factors = weights(helpers)
        keys = messages.keys_context(self.terms, self._keys)
        context, total = messages.mask_context(keys, self._sealed), self._total
        for client in self._survivors:
            seed = join({each: self._seeds[each][client] for each in helpers}, factors)
            if messages.commitment(keys, client, seed) != self._proofs[client]:
                raise _wrong_shares(client)
            total = total - self_mask(seed, context, client, self.terms.words)
        for client in self._lost:
            pair = KeyPair.of(join({each: self._mask_keys[each][client] for each in helpers}, factors))
            if pair.public != self._keys[client].mask:
                raise _wrong_shares(client)
            for peer in self._survivors:  # what the lost one would have added is what they lack
                total = total + pair_mask(pair, self._keys[peer].mask, context, client, peer, self.terms.words)
        weight, count = len(self._survivors), self.terms.size
        if self.terms.max_weight > 1:
            weight = int(total[count])
            if not len(self._survivors) <= weight <= len(self._survivors) * self.terms.max_weight:
                raise SecureSumError(
                    "the weights do not add up: masks are left in the sum, or a client sent a false one"
                )
        return SecureSum(self.terms.fixed.decode(total[:count], weight), weight, tuple(sorted(self._survivors)))

    def _close(self, leg: str, present: int, following: str) -> None:
        if self._leg != leg:
            raise SecureSumError(f"the leg of '{leg}' cannot be closed in that of '{self._leg}'")
        if present < self.terms.threshold:
            self._leg = "done"
            raise SecureSumError(
                f"the secure sum of round {self.terms.round} ends in the leg of '{leg}': {present} of "
                f"{len(self.terms.cohort)} clients are left, and it needs {self.terms.threshold}"
            )
        self._leg = following


def _wrong_shares(client: int) -> SecureSumError:
    return SecureSumError(f"the shares of client {client}'s secret do not give it: a client sent false ones")
