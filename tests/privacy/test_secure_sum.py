"""The secure sum as a whole: it is the sum, whoever is lost, and the server sees nothing else."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chisquare

from promptfed.errors import SecureSumError
from promptfed.privacy import sum_messages
from promptfed.privacy.channel_keys import KeyPair
from promptfed.privacy.masks import from_bytes, pair_mask
from promptfed.privacy.shamir import join
from promptfed.privacy.sum_messages import keys_context, mask_context

CASES = [(n, t, lost) for n, t in [(3, 3), (4, 3), (5, 3), (5, 4), (10, 6), (10, 7)] for lost in range(n - t + 1)]


@pytest.mark.parametrize(("count", "threshold", "lost"), CASES)
def test_the_sum_is_that_of_the_survivors(parties, count, threshold, lost):
    check_sum(parties(count, threshold), tuple(range(lost)))


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [16, 21])
def test_the_sum_of_thirty(parties, threshold):
    for lost in range(30 - threshold + 1):
        check_sum(parties(30, threshold), tuple(range(lost)))


@pytest.mark.parametrize("size", [3, 4, 5])
def test_any_of_five_may_be_lost(parties, size):
    for survivors in combinations(range(5), size):
        check_sum(parties(5, 3), tuple(set(range(5)) - set(survivors)))


def check_sum(group, lost):
    result = group.sum(lost=lost)
    expected = np.delete(group.values, lost, axis=0)
    assert result.clients == tuple(sorted(set(group.terms.cohort) - set(lost)))
    assert result.weight == len(expected)
    assert np.abs(result.values - expected.sum(0)).max() <= group.terms.fixed.error_bound


@pytest.mark.parametrize(
    ("legs", "clients"),
    [
        ({"lost_keys": {1}}, (0, 2, 3, 4, 5)),
        ({"unshared": {2}}, (0, 1, 3, 4, 5)),
        ({"silent": {0, 4}}, (0, 1, 2, 3, 4, 5)),
        ({"unsigned": {0, 4}}, (0, 1, 2, 3, 4, 5)),
        ({"unsigned": {3}, "silent": {1}}, (0, 1, 2, 3, 4, 5)),
        ({"lost_keys": {5}, "unshared": {0}}, (1, 2, 3, 4)),
        ({"lost": {0}, "silent": {1}}, (1, 2, 3, 4, 5)),
    ],
)
def test_clients_are_lost_in_every_leg(parties, legs, clients):
    group = parties(6, 4)
    result = group.sum(**legs)
    assert result.clients == clients
    assert np.abs(result.values - group.values[list(clients)].sum(0)).max() <= group.terms.fixed.error_bound


@pytest.mark.parametrize(
    ("legs", "leg"),
    [
        ({"lost_keys": {0, 1, 2}}, "keys"),
        ({"unshared": {0, 1, 2}}, "shares"),
        ({"lost": {0, 1, 2}}, "masked"),
        ({"unsigned": {0, 1, 2}}, "consent"),
        ({"silent": {0, 1, 2}}, "unmask"),
    ],
)
def test_below_the_threshold_there_is_no_sum(parties, legs, leg):
    group = parties(5, 3)
    with pytest.raises(SecureSumError, match=f"of round 3 ends in the leg of '{leg}': 2 of 5 clients are left") as said:
        group.sum(**legs)
    assert str(said.value).endswith("and it needs 3")
    with pytest.raises(SecureSumError, match="after the sum was closed"):
        group.server.add(0, {})


def test_weights_come_out_with_the_sum(parties):
    group, weights = parties(5, 3, max_weight=40), {0: 1, 1: 40, 2: 7, 3: 8, 4: 20}
    result = group.sum(lost={1}, weights=weights)
    assert result.weight == 36
    expected = sum(weights[client] * group.values[client] for client in (0, 2, 3, 4))
    assert np.abs(result.values - expected).max() <= group.terms.fixed.error_bound


def test_what_the_server_sees_looks_random(parties, fixed_secrets):
    """Bytes are spread evenly, other words come in the next round, and they tell nothing of the values."""
    group, seen = parties(3, size=25_000), []
    for round in (1, 2):
        group.begin(round=round)
        for client, message in group.shares().items():
            words = group.members[client].masked(message, group.values[client])["words"]
            counts = np.bincount(np.frombuffer(words, np.uint8), minlength=256)
            assert counts.sum() == 100_000
            assert chisquare(counts).pvalue > 1e-3
            numbers = from_bytes(words).view(np.int32).astype(float)
            assert abs(np.corrcoef(numbers, group.values[client])[0, 1]) < 0.03
            seen.append(numbers)
    for one, other in combinations(seen, 2):
        assert (one == other).mean() < 1e-3
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_a_late_answer_is_hidden_by_its_self_mask(parties, fixed_secrets):
    """The server calls client 4 lost, gets its mask key, and then its answer after all: nothing is to be seen in it."""
    group = parties(5, 3, size=25_000)
    late = {}
    for client, message in group.shares().items():
        answer = group.members[client].masked(message, group.values[client])
        late[client] = from_bytes(answer["words"])
        if client != 4:
            group.server.add(client, answer)
    message = group.consents(group.server.survivors())
    answers = {client: group.members[client].unmask(message) for client in (0, 1, 2)}
    pair = KeyPair.of(join({client: answer["keys"]["4"] for client, answer in answers.items()}))
    context = mask_context(keys_context(group.terms, group.server._keys), range(5))
    left = late[4]
    for peer in (0, 1, 2, 3):
        left = left - pair_mask(pair, group.server._keys[peer].mask, context, 4, peer, 25_000)
    counts = np.bincount(left.view(np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-3
    assert abs(np.corrcoef(left.view(np.int32).astype(float), group.values[4])[0, 1]) < 0.03


def test_too_few_shares_do_not_unmask(parties):
    """The server has two of the three shares of each seed, as when it joins forces with two clients."""
    group = parties(5, 3)
    survivors = group.masked()
    seeds = {client: member._seed for client, member in group.members.items()}
    message = group.consents(survivors)
    answers = [group.members[client].unmask(message)["seeds"] for client in (0, 1)]
    for client, seed in seeds.items():
        with suppress(SecureSumError):
            assert join(dict(enumerate(answer[str(client)] for answer in answers))) != seed


# ------------------------------------------------------------------------------------------ what a server is sent


def test_another_broadcast_for_one_client_ends_the_round_even_if_no_signature_were_checked(parties, monkeypatch):
    """A lying server puts its own label on that client's messages: the others cannot read the shares."""
    monkeypatch.setattr(sum_messages, "is_signed", lambda *content: True)
    group = parties(5, 3)
    group.members[4] = group.member(4, broadcast=bytes(32))
    odd, label = group.members[4], group.terms.label
    for client, member in group.members.items():
        group.server.add(client, {**member.keys(), "terms": label})
    keys = group.server.all_keys()
    for client, member in group.members.items():
        answer = member.shares({**keys, "terms": odd.terms.label} if client == 4 else keys)
        group.server.add(client, {**answer, "terms": label})
    forwarded = group.server.forwarded()
    for client in (0, 1, 2, 3):
        with pytest.raises(SecureSumError, match="client 4's shares are refused"):
            group.members[client].masked(forwarded[client], group.values[client])
    with pytest.raises(SecureSumError, match="client 0's shares are refused"):
        odd.masked({**forwarded[4], "terms": odd.terms.label}, group.values[4])


def test_keys_for_another_broadcast_are_seen(parties):
    """One client was sent another prompt: its digest is another, so the server sees it in the label of the message."""
    group = parties(5, 3)
    odd = group.member(4, broadcast=bytes(32)).keys()
    with pytest.raises(SecureSumError, match="not of round 3, attempt 1, with the same broadcast"):
        group.server.add(4, odd)
    odd["terms"] = group.terms.label
    with pytest.raises(SecureSumError, match="keys of client 4 are not signed by it for this round and broadcast"):
        group.server.add(4, odd)


@pytest.mark.parametrize("change", [{"round": 2}, {"attempt": 2}, {"run": "other"}, {"cohort": (0, 1, 2, 3)}])
def test_answers_of_another_attempt_are_refused(parties, change):
    group = parties(5, 3)
    with pytest.raises(SecureSumError, match="not of round 3"):
        group.server.add(1, group.member(1, **change).keys())


def test_each_client_answers_once_a_leg(parties):
    group = parties(4)
    first = group.members[0].keys()
    group.server.add(0, first)
    with pytest.raises(SecureSumError, match="client 0 answered twice in the leg of 'keys'"):
        group.server.add(0, first)
    with pytest.raises(SecureSumError, match="client 1 sent a key that is there already"):
        group.server.add(1, first)
    with pytest.raises(SecureSumError, match="client 4 has no part in the leg of 'keys'"):
        group.server.add(4, first)


def test_a_late_answer_does_not_count(parties):
    group = parties(5, 3)
    forwarded = group.shares()
    answers = {client: group.members[client].masked(message, group.values[client])
               for client, message in forwarded.items()}  # fmt: skip
    for client in (0, 1, 2, 3):
        group.server.add(client, answers[client])
    with pytest.raises(SecureSumError, match="client 3 answered twice"):
        group.server.add(3, answers[3])
    survivors = group.server.survivors()
    with pytest.raises(SecureSumError, match="client 4 has no part in the leg of 'consent'"):
        group.server.add(4, answers[4])
    message = group.consents(survivors, unsigned={3})
    with pytest.raises(SecureSumError, match="client 3 has no part in the leg of 'unmask'"):
        group.server.add(3, group.members[3].consent(survivors))
    for client in (0, 1, 2):
        group.server.add(client, group.members[client].unmask(message))
    result = group.server.result()
    assert result.clients == (0, 1, 2, 3)
    assert np.abs(result.values - group.values[:4].sum(0)).max() <= group.terms.fixed.error_bound


def test_the_legs_are_closed_in_order(parties):
    group = parties(4)
    for close in (group.server.forwarded, group.server.survivors, group.server.consents, group.server.result):
        with pytest.raises(SecureSumError, match="cannot be closed in that of 'keys'"):
            close()


def test_false_shares_end_the_sum(parties):
    group = parties(5, 3)
    message = group.consents(group.masked(lost={4}))
    for client in (0, 1, 2):
        answer = group.members[client].unmask(message)
        if client == 1:
            answer["seeds"]["2"] = answer["seeds"]["3"]
        group.server.add(client, answer)
    with pytest.raises(SecureSumError, match=r"client 2's secret do not give it|do not belong together"):
        group.server.result()


def test_values_beyond_the_bound_are_seen_when_they_show(parties):
    group = parties(5, 3)
    for client, message in group.shares().items():
        answer = group.members[client].masked(message, group.values[client])
        if client == 0:  # adds as much as two honest clients could together
            words = from_bytes(answer["words"]) + np.uint32(5 * group.terms.fixed.largest)
            answer["words"] = words.tobytes()
        group.server.add(client, answer)
    message = group.consents(group.server.survivors())
    for client in range(5):
        group.server.add(client, group.members[client].unmask(message))
    with pytest.raises(SecureSumError, match="larger than its parts can be"):
        group.server.result()


def test_the_words_of_one_leg_are_not_those_of_another(parties):
    group = parties(4)
    group.keys()
    for strange in (None, [], "keys", {}, {"kind": "keys"}, {"kind": "shares", "terms": b""}):
        with pytest.raises(SecureSumError):
            group.server.add(0, strange)


def test_terms_are_shown_nowhere_but_as_a_label(parties):
    group = parties(4)
    assert group.members[0].keys()["terms"] == group.terms.digest[:16]
    assert replace(group.terms, bound=0.2).label != group.terms.label
