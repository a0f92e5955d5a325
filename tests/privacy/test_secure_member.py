"""A member of a secure sum refuses every message by which a server could learn more than the sum."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfed.errors import SecureSumError
from promptfed.privacy.channel_keys import Identity, KeyPair
from promptfed.privacy.secure_member import Member
from promptfed.privacy.sum_messages import PublicKeys, made

OTHER = KeyPair.of(bytes([77] * 32))
COUNT = 5


def packed(group, client: int, *, identity: Identity | None = None, channel=OTHER, mask=None, **terms) -> bytes:
    """Keys of ``client`` as the server may have made them up."""
    mask = KeyPair.of(bytes([78] * 32)) if mask is None else mask
    identity = group.identities[client] if identity is None else identity
    return PublicKeys.signed_by(identity, replace(group.terms, **terms), client, channel, mask).packed


# ----------------------------------------------------------------------------------------------------- all keys


def test_a_forged_signature_is_refused(parties):
    """A server that puts a key of its own in the place of a client's would read that client's shares."""
    group = parties(COUNT)
    message = group.keys()
    message["keys"]["3"] = packed(group, 3, identity=Identity.new())
    with pytest.raises(SecureSumError, match="keys of client 3 are not signed by it for this round and broadcast"):
        group.members[0].shares(message)


@pytest.mark.parametrize(
    "terms",
    [{"round": 2}, {"attempt": 2}, {"run": "another"}, {"broadcast": bytes(32)}, {"cohort": (0, 1, 2, 3)},
     {"bound": 0.2}, {"threshold": 5}],
    ids=lambda terms: next(iter(terms)),
)  # fmt: skip
def test_keys_that_were_signed_for_something_else_are_refused(parties, terms):
    group = parties(COUNT, 3)
    message = group.keys()
    message["keys"]["3"] = packed(group, 3, **terms)
    with pytest.raises(SecureSumError, match="client 3 are not signed by it for this round and broadcast"):
        group.members[0].shares(message)


def test_its_own_keys_must_be_there(parties):
    group = parties(COUNT, 3)
    message = group.keys()
    own = message["keys"].pop("0")
    with pytest.raises(SecureSumError, match="own keys are not among those of all"):
        group.members[0].shares(message)
    message["keys"]["0"] = packed(group, 0)
    with pytest.raises(SecureSumError, match="own keys are not among those of all"):
        group.members[0].shares(message)
    message["keys"]["0"] = own
    assert len(group.members[0].shares(message)["to"]) == COUNT - 1


def test_the_same_key_twice_is_refused(parties):
    group = parties(COUNT)
    message = group.keys()
    message["keys"]["3"] = packed(group, 3)
    message["keys"]["4"] = packed(group, 4, mask=KeyPair.of(bytes([79] * 32)))
    with pytest.raises(SecureSumError, match="two keys are the same"):
        group.members[0].shares(message)
    message["keys"]["4"] = packed(group, 4, channel=KeyPair.of(bytes([78] * 32)), mask=KeyPair.of(bytes([79] * 32)))
    with pytest.raises(SecureSumError, match="two keys are the same"):  # of different uses
        group.members[0].shares(message)


def test_too_few_keys_are_refused(parties):
    group = parties(COUNT, 4)
    message = group.keys()
    del message["keys"]["3"], message["keys"]["4"]
    with pytest.raises(SecureSumError, match="keys of 3 clients are too few; this sum needs 4"):
        group.members[0].shares(message)


def test_keys_from_outside_the_cohort_are_refused(parties):
    group = parties(COUNT)
    message = group.keys()
    message["keys"]["9"] = message["keys"].pop("3")
    with pytest.raises(SecureSumError, match="has an entry of '9'"):
        group.members[0].shares(message)


# ------------------------------------------------------------------------------------------------------- shares


def test_shares_of_another_attempt_or_for_somebody_else_are_refused(parties):
    group = parties(COUNT, 3)
    first = group.shares()
    group.begin(attempt=2)
    honest = group.shares()
    for entry in (first[0]["from"]["1"], honest[0]["from"]["2"], honest[2]["from"]["1"]):
        message = {**honest[0], "from": {**honest[0]["from"], "1": entry}}
        with pytest.raises(SecureSumError, match="client 1's shares are refused: a sealed message was changed"):
            group.members[0].masked(message, group.values[0])
    with pytest.raises(SecureSumError, match="not of round 3, attempt 2"):
        group.members[0].masked(first[0], group.values[0])


def test_too_few_shares_are_refused(parties):
    group = parties(COUNT, 4)
    message = group.shares()[0]
    del message["from"]["3"], message["from"]["4"]
    with pytest.raises(SecureSumError, match="shares of 3 clients are too few; this sum needs 4"):
        group.members[0].masked(message, group.values[0])


def test_a_server_that_tells_clients_of_different_sharers_gets_garbage(parties):
    """The set of those who shared is a part of every mask's key."""
    group = parties(COUNT, 3)
    for client, message in group.shares().items():
        if client == 0:
            del message["from"]["4"]
        group.server.add(client, group.members[client].masked(message, group.values[client]))
    message = group.consents(group.server.survivors(), unsigned={0})
    for client in (1, 2, 3, 4):
        group.server.add(client, group.members[client].unmask(message))
    with pytest.raises(SecureSumError, match="masks are left in it"):
        group.server.result()


@pytest.mark.parametrize(
    ("values", "why"),
    [(np.zeros(15), r"shape \(15,\) are not the 16"), (np.zeros((4, 4)), r"shape \(4, 4\)"),
     (np.full(16, np.nan), "not finite")],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused_and_can_be_sent_again(parties, values, why):
    group = parties(3)
    message = group.shares()[0]
    with pytest.raises(SecureSumError, match=why):
        group.members[0].masked(message, values)
    assert group.members[0].masked(message, group.values[0])["kind"] == "masked"


# ---------------------------------------------------------------------------------------------------- survivors


@pytest.mark.parametrize(
    ("survivors", "lost", "why"),
    [
        ([0, 1, 2, 3], [3, 4], "asks for both secrets of client 3"),
        ([0, 1, 2, 3, 4], [0], "asks for both secrets of client 0"),
        ([0, 1, 2], [3], "does not count every client"),
        ([0, 1, 2, 3, 4, 5], [], "names 5, which has no part in it"),
        ([0, 1, 2, 2], [3, 4], "names a client twice"),
        ([0, 1], [2, 3, 4], "a sum over 2 survivors is not given out; this one needs 3"),
        ([1, 2, 3, 4], [0], "or not this one"),
        ([True, 0, 2, 3], [4], "not a list of clients"),
    ],
)
def test_an_unfair_question_is_refused_and_nothing_is_given_out(parties, survivors, lost, why):
    group = parties(COUNT, 3)
    honest = group.masked()
    with pytest.raises(SecureSumError, match=why):
        group.members[0].consent({**honest, "survivors": survivors, "lost": lost})
    assert group.members[0].unmask(group.consents(honest))["seeds"].keys() == {"0", "1", "2", "3", "4"}


def test_it_unmasks_once(parties):
    """A second answer, with another list, would give the server both secrets of a client."""
    group = parties(COUNT, 3)
    honest = group.masked(lost={4})
    message = group.consents(honest)
    answer = group.members[0].unmask(message)
    assert (answer["seeds"].keys(), answer["keys"].keys()) == ({"0", "1", "2", "3"}, {"4"})
    for leg, again in ((group.members[0].unmask, message), (group.members[0].consent, honest)):
        with pytest.raises(SecureSumError, match="cannot do this leg now: its last one was 'done'"):
            leg(again)


def test_no_leg_is_done_twice_or_out_of_turn(parties):
    group = parties(3)
    member, nothing = group.members[0], np.zeros(16)
    for leg in (
        lambda: member.shares({}),
        lambda: member.masked({}, nothing),
        lambda: member.consent({}),
        lambda: member.unmask({}),
    ):
        with pytest.raises(SecureSumError, match="its last one was 'new'"):
            leg()
    keys = group.keys()
    with pytest.raises(SecureSumError, match="its last one was 'keys'"):
        member.keys()
    for client in (0, 1, 2):
        group.server.add(client, group.members[client].shares(keys))
    with pytest.raises(SecureSumError, match="its last one was 'shares'"):
        member.shares(keys)
    message = group.server.forwarded()[0]
    member.masked(message, nothing)
    with pytest.raises(SecureSumError, match="its last one was 'masked'"):  # two answers would differ by the values
        member.masked(message, nothing + 0.01)


# ------------------------------------------------------------------------------------------ attempts and state


def test_values_are_sent_once_in_a_round(parties):
    group = parties(COUNT, 3)
    forwarded = group.shares()
    later = replace(group.terms, attempt=2, cohort=(0, 1, 2, 3))
    assert group.members[1].renewed(later).keys()["terms"] == later.label
    group.members[0].masked(forwarded[0], group.values[0])
    with pytest.raises(SecureSumError, match="values are sent once in a round"):
        group.members[0].renewed(later)
    for other in (replace(later, attempt=1), replace(later, round=4), replace(later, run="another")):
        with pytest.raises(SecureSumError, match="no later attempt of the same round"):
            group.members[2].renewed(other)


def test_each_leg_may_be_a_process_of_its_own(parties):
    group = parties(COUNT, 3)
    secrets_seen = set()

    def move(text=None):
        for client, member in group.members.items():
            state = member.state()
            secrets_seen.update(json.loads(state)["secrets"])
            group.members[client] = Member.restored(state, group.identities[client], group.public)
        return text

    move()
    keys = move(group.keys())
    for client in group.members:
        group.server.add(client, group.members[client].shares(keys))
    forwarded = move(group.server.forwarded())
    for client in (0, 1, 2, 3):
        group.server.add(client, group.members[client].masked(forwarded[client], group.values[client]))
    message = move(group.consents(move(group.server.survivors())))
    for client in (0, 1, 2, 3):
        group.server.add(client, group.members[client].unmask(message))
        after = group.members[client].state()
        assert json.loads(after)["stage"] == "done"
        assert not [secret for secret in secrets_seen - {""} if secret.encode() in after]
    assert np.abs(group.server.result().values - group.values[:4].sum(0)).max() <= group.terms.fixed.error_bound
    restored = Member.restored(after, group.identities[client], group.public)
    with pytest.raises(SecureSumError, match="its last one was 'done'"):
        restored.unmask(message)


def test_what_it_shows_of_itself_holds_no_secret(parties):
    group = parties(3)
    group.shares()
    assert repr(group.members[0]) == "<member 0 of a secure sum over 3 clients: shares>"
    shown = repr(vars(group.members[0])["_channel"])
    assert repr(group.members[0]._channel.private) not in shown


def test_its_own_keys_go_when_the_values_are_sent(parties):
    group = parties(3)
    message, member = group.shares()[0], group.members[0]
    known = {member._channel.private, member._mask.private, member._seed}
    member.masked(message, group.values[0])
    assert not known & {member._channel.private, member._mask.private, member._seed}
    assert member._shares.keys() == {0, 1, 2}


def test_a_wiped_member_knows_no_secret(parties):
    group = parties(3)
    group.shares()
    member = group.members[0]
    known = {member._channel.private, member._mask.private, member._seed, *member._shares.values()}
    member.wipe()
    assert not known & {member._channel.private, member._mask.private, member._seed, *member._shares.values()}
    assert member.stage == "done"


@pytest.mark.parametrize("state", [b"", b"{}", b"[]", b"\xff", b'{"client": 0, "terms": {}}', b"[" * 99])
def test_a_damaged_state_is_a_lost_client(parties, state):
    group = parties(3)
    with pytest.raises(SecureSumError, match=r"cannot be read: this client has dropped out|no terms of a secure sum"):
        Member.restored(state, group.identities[0], group.public)


def test_identities_must_be_known_and_different(parties):
    group = parties(3)
    terms, own, public = group.terms, group.identities[0], group.public
    for client, known, why in [
        (7, public, "client 7 is not of this cohort"),
        (0, {0: public[0], 1: public[1]}, "client 2 has no identity here"),
        (0, {**public, 2: public[1]}, "two clients have the same identity"),
        (0, {**public, 0: Identity.new().public}, "is another one here than it has itself"),
    ]:
        with pytest.raises(SecureSumError, match=why):
            Member(client, terms, own, known)


# -------------------------------------------------------------------------------------------- whatever else comes

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=130) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("0123x"), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=15, deadline=None)
@given(kind=st.sampled_from(["all keys", "shares", "survivors", "consents", "keys"]), value=VALUES, other=VALUES)
def test_any_other_message_is_one_error(waiting, kind, value, other):
    """In each leg, with the right label and the names of its fields."""
    label = {"kind": kind, "terms": waiting.terms.label}
    for message in (
        value,
        label,
        {**label, "keys": value},
        {**label, "from": value},
        {**label, "survivors": value, "lost": other},
        {**label, "signatures": value},
    ):
        for leg in (
            waiting.members[0].shares,
            lambda message: waiting.members[1].masked(message, waiting.values[1]),
            waiting.members[2].consent,
            waiting.members[3].unmask,
        ):
            with pytest.raises(SecureSumError):
                leg(message)


@pytest.fixture(scope="module")
def waiting(parties):
    """Four members, each before another leg."""
    group = parties(4)
    forwarded = group.shares()
    for client in (2, 3):
        group.members[client].masked(forwarded[client], group.values[client])
    lists = {"survivors": [0, 1, 2, 3], "lost": []}
    group.members[3].consent(made("survivors", group.terms, **lists))
    group.members[0] = group.member(0)
    group.members[0].keys()
    return group
