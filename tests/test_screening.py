"""No field of a reply can cost more than that client's own update."""

from __future__ import annotations

import math
import time
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfed.prompt_state import PromptState
from promptfed.screening import Expected, check_update, limited, lower_median, most_bytes, outliers
from promptfed.types import NO_PROMPT, Reply, Update
from promptfed.usage import Usage

NAN, HUGE = float("nan"), 10**400
SENT = PromptState({"ctx": torch.zeros(2, 3), "tokens": torch.tensor([1, 2], dtype=torch.int16)})
EXPECTED = Expected({"ctx": (2, 3), "tokens": (None,)}, SENT, samples=40)
GOOD = Reply(3, 1, Update(3, SENT, 12, 1.5, 0.25), NO_PROMPT, 0.1, Usage(text_encoder_calls=4))


def with_update(**changes):
    return replace(GOOD, update=replace(GOOD.update, **changes))


def with_tensors(**tensors):
    return with_update(shared=PromptState({**SENT, **tensors}))


BAD = {
    **{
        f"samples {name}": (with_update(samples=value), "an update for .* samples")
        for name, value in {
            "10^18": 10**18, "10^400": HUGE, "10^5000": 10**5000, "-10^5000": -(10**5000), "0": 0, "-1": -1,
            "true": True, "1.5": 1.5, "12.0": 12.0, "NaN": NAN, "text": "12", "None": None, "list": [12],
        }.items()
    },
    **{
        f"loss {name}": (with_update(loss=value), "a loss of ")
        for name, value in {
            "NaN": NAN, "inf": math.inf, "-inf": -math.inf, "1e308": 1e308, "10^400": HUGE, "10^5000": 10**5000,
            "true": True, "text": "0.1", "None": None,
        }.items()
    },
    **{
        f"accuracy {name}": (with_update(accuracy=value), "an accuracy of ")
        for name, value in {
            "NaN": NAN, "1e308": 1e308, "1.0000001": 1.0000001, "-0.1": -0.1, "inf": math.inf, "10^400": HUGE,
            "None": None, "true": True,
        }.items()
    },
    **{
        f"seconds {value}": (replace(GOOD, seconds=value), "seconds of ") for value in (NAN, math.inf, -1.0, 1e300, "1")
    },
    "seconds 10^400": (replace(GOOD, seconds=HUGE), r"seconds of 10\^399 or more"),
    "start_seconds": (replace(GOOD, start_seconds=NAN), "start_seconds of nan"),
    "bytes_up": (replace(GOOD, bytes_up=HUGE), "bytes_up of "),
    "bytes_down": (replace(GOOD, bytes_down=-5), "bytes_down of -5"),
    **{
        f"usage {field.name}": (replace(GOOD, usage=Usage(**{field.name: value})), f"{field.name} of ")
        for field, value in zip(
            fields(Usage), [HUGE, -1, NAN, math.inf, 10**30, "2", None, -0.5, True, 1e300, -1, -2, NAN], strict=True
        )
    },
    "usage of another kind": (replace(GOOD, usage={"usd": 1}), "something that is no usage"),
    "another's update": (with_update(client=4), "an update of client 4"),
    "an update of true": (with_update(client=True), "an update of client True"),
    "no update": (replace(GOOD, update=None), "something that is no update"),
    "no state": (with_update(shared={"ctx": torch.zeros(2, 3)}), "something that is no update"),
    "no personal state": (replace(GOOD, personal=None), "no personal prompt"),
    "NaN kept": (replace(GOOD, personal=PromptState({"x": torch.tensor(NAN)})), "numbers that are not finite"),
    "1e39": (with_tensors(ctx=torch.full((2, 3), 1e39, dtype=torch.float64)), "numbers that are not finite"),
    "complex": (with_tensors(ctx=torch.ones(2, 3, dtype=torch.complex64)), "'ctx' as torch.complex64"),
    "whole numbers": (with_tensors(ctx=torch.ones(2, 3, dtype=torch.int64)), "'ctx' as torch.int64 instead of"),
    "real tokens": (with_tensors(tokens=torch.ones(2)), "'tokens' as torch.float32 instead of torch.int16"),
    "a long text": (with_tensors(tokens=torch.zeros(10**6 + 1, dtype=torch.uint8)), "'tokens' with 1,000,001 numbers"),
    "an escape code": (with_tensors(**{"\x1b[2J": torch.ones(1)}), r"names \['.*x1b"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_with_a_reply_costs_its_update_and_is_said(what):
    reply, why = BAD[what]
    began = time.perf_counter()
    found = check_update(reply, EXPECTED)
    assert time.perf_counter() - began < 1
    with pytest.raises(ValueError, match=f"^refused: client 3 sent .*{why}"):
        raise ValueError(found.failure)
    assert len(found.failure) < 300
    assert found.failure.isprintable()
    assert_harmless(found)


def assert_harmless(reply):
    """Nothing in it can spoil a sum, an event or a checkpoint."""
    assert (reply.client, reply.round) == (3, 1)
    assert reply.update.shared == NO_PROMPT
    assert reply.update.samples == 0
    assert 0 <= reply.seconds < math.inf
    assert reply.personal.is_finite()
    assert all(0 <= getattr(reply.usage, field.name) < 1e16 for field in fields(Usage))
    assert reply.bytes_up is None or 0 <= reply.bytes_up < 1e16


def test_the_bytes_of_an_update_are_bounded_by_what_its_method_sends():
    assert most_bytes({}) == 1_000_000
    assert most_bytes({"ctx": (2, 3), "scale": ()}) == 16 * 7 + 1_000_000
    assert most_bytes({"text": (None,), "none": (0, 5)}) == 16 * (1_000_000 + 5) + 1_000_000
    assert most_bytes(EXPECTED.shapes) > sum(tensor.nbytes for tensor in SENT.values())


def test_a_good_reply_is_left_as_it_is():
    assert check_update(GOOD, EXPECTED) == GOOD
    silent = with_tensors(tokens=torch.tensor([7, 8, 70000], dtype=torch.int32))
    assert check_update(silent, EXPECTED) == silent, "the kind of whole numbers may change with their size"


def test_only_a_black_box_may_have_measured_nothing():
    quiet = with_update(loss=NAN, accuracy=NAN)
    assert check_update(quiet, EXPECTED).failure
    assert not check_update(quiet, replace(EXPECTED, measures=False)).failure
    assert check_update(with_update(loss=NAN), replace(EXPECTED, measures=False)).failure
    assert check_update(with_update(loss=math.inf, accuracy=NAN), replace(EXPECTED, measures=False)).failure


@pytest.mark.parametrize(
    ("claimed", "known", "counts"), [(12, 40, 12), (41, 40, 40), (10**9, 7, 7), (10**9, None, 10**9), (5, 0, 1)]
)
def test_a_count_is_at_most_what_the_client_has(claimed, known, counts):
    assert check_update(with_update(samples=claimed), replace(EXPECTED, samples=known)).update.samples == counts


def test_a_failure_with_impossible_figures_stays_a_failure_and_harms_nobody():
    for why in ("late", "dropped out", "error: client 3: no such image"):
        wild = replace(GOOD, failure=why, seconds=NAN, usage=Usage(oracle_queries=HUGE), bytes_up=77)
        found = check_update(wild, EXPECTED)
        assert (found.failure, found.bytes_up) == (why, 77)
        assert_harmless(found)
    long = check_update(replace(GOOD, failure="error: \x1b[31m" + "x" * 10**7), EXPECTED)
    assert len(long.failure) <= 1000
    assert long.failure.startswith("error: \\x1b[31m")


# --------------------------------------------------------------------------------------------------- outliers


def sending(*values, sent=1.0):
    """One update for each of ``values``, of which each is 4 numbers alike, and what the clients were sent."""
    updates = [Update(i, PromptState({"ctx": torch.full((4,), v)}), 1, 0.0, 0.0) for i, v in enumerate(values)]
    return updates, dict.fromkeys(range(len(values)), PromptState({"ctx": torch.full((4,), sent)}))


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ([1.1] * 9 + [1e38], {9}),
        ([1.1, 0.9, -1e38, 1e38], {2, 3}),
        ([1.1, 1e12], {1}),
        ([1e12, 1.1], {0}),
        ([1e38], {0}),
        ([1.1], set()),
        ([1.1, 1e5, 0.9], set()),
        ([1.0] * 9 + [1.5], set()),  # nobody else changed anything
        ([1.0 + 1e-7] * 9 + [3.0], set()),  # nearly converged
        ([1e38, 1e38, 1e38], set()),  # the median is theirs
    ],
)
def test_a_change_beyond_all_measure_is_refused_however_few_there_are(values, refused):
    assert set(outliers(*sending(*values))) == refused


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.3], [0.0, 0.4], [0.3], [0.0] * 5 + [2.0]])
def test_from_a_prompt_of_zeros_nobody_is_refused_for_a_change_of_ordinary_length(values):
    assert outliers(*sending(*values, sent=0.0)) == {}
    assert set(outliers(*sending(*values, 1e38, sent=0.0))) == {len(values)}


@pytest.mark.parametrize(
    ("values", "longest", "refused"),
    [
        ([1.1, 1.1, 0.9, 2.0], 5.0, {3}),
        ([1.1, 1.1, 0.9, 0.0], 5.0, {3}),  # the direction does not matter
        ([1.1, 1.1, 0.9, 1.4], 5.0, set()),
        ([1.1, 1.1, 0.9, 2.0], None, set()),
        ([1.001] * 9 + [1.5], 5.0, {9}),  # near convergence too
        ([1.1, 2.0], 5.0, set()),  # of two, either may be the odd one
        ([1.0, 1.0, 1.0, 1.5], 5.0, set()),  # nobody else changed anything
        ([1.1] * 3 + [1e38], 5.0, {3}),
    ],
)
def test_changes_can_be_held_to_a_multiple_of_the_median(values, longest, refused):
    assert set(outliers(*sending(*values), longest)) == refused


def test_numbers_without_a_counterpart_count_with_their_own_length_and_whole_ones_do_not():
    sent = dict.fromkeys(range(3), PromptState({"tag": torch.ones(3)}))
    prompts = [{"fitness": torch.tensor([v]), "seeds": torch.tensor([2**62])} for v in (0.5, 0.7, 1e30)]
    updates = [Update(i, PromptState(p), 1, 0.0, 0.0) for i, p in enumerate(prompts)]
    assert set(outliers(updates, sent)) == {2}


@pytest.mark.parametrize(
    ("values", "middle"), [([3.0], 3.0), ([1.0, 9.0], 1.0), ([9.0, 1.0, 5.0], 5.0), ([4, 3, 2, 1], 2)]
)
def test_the_lower_median(values, middle):
    assert lower_median(values) == middle


# ---------------------------------------------------------------------------------------------------- weights


def counted(*samples):
    return [Update(i, NO_PROMPT, n, 0.0, 0.0) for i, n in enumerate(samples)]


@pytest.mark.parametrize(
    ("samples", "share", "after"),
    [
        ((10, 10, 10, 10), 0.5, (10, 10, 10, 10)),
        ((10**9, 10, 10, 10), 0.5, (30, 10, 10, 10)),
        ((10**9, 10**9, 10, 10), 0.5, (10**9, 10**9, 10, 10)),  # half each is allowed
        ((10**9, 5), 0.5, (10**9, 5)),  # of two, twice an even share is all
        ((10**9, 5, 5), 0.5, (20, 5, 5)),  # of three it is two thirds
        ((10**9,), 0.5, (10**9,)),
        ((10**9, 10**8, *[10] * 8), 0.2, (26, 26, *[10] * 8)),
        ((1, 1, 1, 100), 0.5, (1, 1, 1, 3)),
        ((7, 1, 1, 1), 1.0, (7, 1, 1, 1)),
    ],
)
def test_nobody_outweighs_the_others(samples, share, after):
    assert tuple(update.samples for update in limited(counted(*samples), share)) == after


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=12), st.floats(0.01, 1.0))
@settings(max_examples=200, deadline=None)
def test_shares_keep_to_the_limit_and_no_count_is_raised_or_reordered(samples, share):
    after = [update.samples for update in limited(counted(*samples), share)]
    most = max(share, 2 / len(samples))
    assert max(after) <= most * sum(after) * (1 + 1e-9)
    assert all(1 <= new <= old for new, old in zip(after, samples, strict=True))
    kept = [new for new, old in zip(after, samples, strict=True) if new < old]
    assert len(set(kept)) <= 1, "all that are lowered are lowered to the same count"
    order = sorted(range(len(after)), key=lambda i: samples[i])
    assert [after[i] for i in order] == sorted(after)
    if max(samples) <= most * sum(samples):
        assert after == samples
