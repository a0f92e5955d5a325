"""Clients of a secure sum agree on who survived, so that a server that lies has one list and one sum."""

from __future__ import annotations

from dataclasses import replace

import pytest

from promptfed.errors import SecureSumError
from promptfed.privacy.sum_messages import made, survivors_content

COUNT = 5


def test_it_signs_one_list(parties):
    group = parties(COUNT, 3)
    honest = group.masked()
    first = group.members[0].consent(honest)
    for again in (honest, {**honest, "survivors": [0, 1, 2], "lost": [3, 4]}):
        with pytest.raises(SecureSumError, match="cannot do this leg now: its last one was 'consent'"):
            group.members[0].consent(again)
    assert len(first["signature"]) == 64


def test_a_server_that_tells_two_halves_two_lists_gets_no_sum(parties):
    """Of six clients a list needs five signatures, and each signs one."""
    group = parties(6)
    assert group.terms.threshold == 5
    honest = group.masked()
    one = {**honest, "survivors": [0, 1, 2, 3, 4], "lost": [5]}
    other = {**honest, "survivors": [1, 2, 3, 4, 5], "lost": [0]}
    signed = {client: group.members[client].consent(one if client < 3 else other)["signature"] for client in range(6)}
    for client in range(6):
        there = range(5) if client < 3 else range(1, 6)
        message = made("consents", group.terms, signatures={str(each): signed[each] for each in there})
        with pytest.raises(SecureSumError, match=r"3 clients signed the list of survivors .*; this sum needs 5"):
            group.members[client].unmask(message)


@pytest.mark.parametrize("change", ["none", "garbled", "of another", "of another round", "outside"])
def test_too_few_true_signatures_are_refused_and_true_ones_suffice(parties, change):
    group = parties(COUNT, 4)
    honest = group.consents(group.masked(lost={4}))
    signatures = dict(honest["signatures"])
    if change == "none":
        del signatures["3"]
    elif change == "garbled":
        signatures["3"] = bytes(64)
    elif change == "of another":
        signatures["3"] = signatures["2"]
    elif change == "outside":
        signatures["4"] = signatures.pop("3")
    else:
        content = survivors_content(replace(group.terms, round=2), range(5), range(4))
        signatures["3"] = group.identities[3].sign(content)
    why = "has an entry of '4'" if change == "outside" else "3 clients signed the list .* this sum needs 4"
    with pytest.raises(SecureSumError, match=why):
        group.members[0].unmask({**honest, "signatures": signatures})
    assert group.members[0].unmask(honest)["keys"].keys() == {"4"}


def test_a_false_signature_costs_its_client_its_part_alone(parties):
    group = parties(COUNT, 3)
    survivors = group.masked()
    with pytest.raises(SecureSumError, match="client 2 did not sign the list of survivors that it was sent"):
        group.server.add(2, {**group.members[2].consent(survivors), "signature": bytes(64)})
    message = group.consents(survivors, unsigned={2})
    for client in (0, 1, 3, 4):
        group.server.add(client, group.members[client].unmask(message))
    assert group.server.result().clients == (0, 1, 2, 3, 4)
