"""What must hold for all ways of merging."""

from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.base import AGGREGATORS, AggregatorWrapper, build_aggregator
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState
from promptfed.types import Update

NAMES = tuple(AGGREGATORS)
ROBUST = ("median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "dnc", "bucketing")
BOUNDED = ("norm_clip", "norm_bound", "centered_clip", "foolsgold", "fltrust", "rlr")
AVERAGES = ("mean", "uniform", "interpolated", *ROBUST, *BOUNDED, "fedamp", "clustered", "reliability")
OPTIONS = {"fltrust": {"root": 0}}
"""Options without which a rule does not work."""


def updates_of(prompts, samples):
    return [Update(i, p, n, 0.0, 0.0) for i, (p, n) in enumerate(zip(prompts, samples, strict=True))]


def after(name, shared, rounds, **options):
    """Shared prompt and server state after ``rounds``, each a list of updates."""
    aggregator = build_aggregator(name, {**OPTIONS.get(name, {}), **options})
    server = aggregator.init(shared)
    for updates in rounds:
        shared, server = aggregator.apply(shared, updates, server)
    return aggregator, shared, server


def assert_close(a: PromptState, b: PromptState, to: float = 1e-6) -> None:
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=to, atol=to)


def test_all_that_the_command_line_promises_are_there():
    assert set(NAMES) == {
        "mean", "uniform", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "median", "trimmed_mean", "krum",
        "multi_krum", "geometric_median", "norm_clip", "fedamp", "clustered", "interpolated", "norm_bound",
        "centered_clip", "foolsgold", "dnc", "bucketing", "rlr", "crfl", "fltrust", "records",
        "reliability",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_clients_does_not_matter(name, crowd):
    shared, prompts, samples = crowd
    rounds = [updates_of([p * (1 + r) for p in prompts], samples) for r in range(4)]
    aggregator, merged, server = after(name, shared, rounds)
    _, turned, turned_server = after(name, shared, [list(reversed(updates)) for updates in rounds])
    assert_close(merged, turned)
    for client in (None, 0, 3, 99):
        assert_close(aggregator.broadcast(merged, server, client), aggregator.broadcast(turned, turned_server, client))


@pytest.mark.parametrize("name", AVERAGES)
def test_equal_updates_are_merged_to_themselves(name, crowd):
    _, [prompt, *_], _ = crowd
    aggregator, merged, server = after(name, prompt, [updates_of([prompt] * 5, [2, 1, 1, 7, 3])] * 4)
    assert_close(merged, prompt)
    assert_close(aggregator.broadcast(merged, server, 2), prompt)


@pytest.mark.parametrize("name", AVERAGES)
def test_moving_all_prompts_moves_the_result(name, crowd):
    shared, prompts, samples = crowd
    by = shared.map(lambda t: torch.full_like(t, 2.5))
    _, merged, _ = after(name, shared, [updates_of(prompts, samples)])
    _, moved, _ = after(name, shared + by, [updates_of([p + by for p in prompts], samples)])
    assert_close(moved, merged + by, to=2e-5)


@pytest.mark.parametrize("name", ROBUST)
def test_one_client_with_a_million_is_withstood(name, crowd):
    shared, prompts, samples = crowd
    bad = prompts[5].map(lambda t: torch.full_like(t, 1e6))
    _, merged, _ = after(name, shared, [updates_of([*prompts[:5], bad, prompts[6]], samples)])
    assert (merged - shared).norm() < 2 * max((p - shared).norm() for p in prompts)


def test_the_mean_is_not_that_robust(crowd):
    shared, prompts, samples = crowd
    bad = prompts[5].map(lambda t: torch.full_like(t, 1e6))
    _, merged, _ = after("mean", shared, [updates_of([*prompts[:5], bad, prompts[6]], samples)])
    assert (merged - shared).norm() > 1e5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2])
def test_when_nearly_all_drop_out_it_still_works(name, count, crowd):
    shared, prompts, samples = crowd
    few = updates_of(prompts[:count], samples[:count])
    aggregator, merged, server = after(name, shared, [few] * 5)
    assert merged.is_finite()
    assert server.is_finite()
    assert merged.mismatch(shared) is None
    assert aggregator.broadcast(merged, server, 0).mismatch(shared) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_that_nobody_sent_stays_and_one_that_all_sent_is_merged(name, crowd):
    shared, prompts, samples = crowd
    sent = [PromptState({"a": p["a"]}) for p in prompts]
    _, merged, _ = after(name, shared, [updates_of(sent, samples)] * 2)
    assert torch.equal(merged["b"], shared["b"])
    assert not torch.equal(merged["a"], shared["a"])


@pytest.mark.parametrize("name", NAMES)
def test_what_one_client_alone_owns_is_merged_over_that_client(name, crowd):
    """Fed-DPT's concatenation: client 0 sends "b" besides "a", the others only "a"."""
    shared, prompts, samples = crowd
    sent = [prompts[0], *(PromptState({"a": p["a"]}) for p in prompts[1:])]
    _, merged, server = after(name, shared, [updates_of(sent, samples)])
    assert merged.is_finite()
    assert server.is_finite()
    if name in ("mean", "uniform", "median", "trimmed_mean", "geometric_median", "fedamp", "clustered", "reliability"):
        torch.testing.assert_close(merged["b"], prompts[0]["b"])


@pytest.mark.parametrize("name", NAMES)
def test_scalars_and_empty_tensors_pass(name):
    shared = PromptState({"s": torch.tensor(1.0), "e": torch.zeros(0, 3)})
    prompts = [PromptState({"s": torch.tensor(float(i)), "e": torch.zeros(0, 3)}) for i in range(5)]
    _, merged, _ = after(name, shared, [updates_of(prompts, [1] * 5)] * 4)
    assert merged.mismatch(shared) is None
    assert merged.is_finite()


@pytest.mark.parametrize(
    ("name", "clients", "options", "said"),
    [
        ("krum", 4, {}, r"byzantine=1 needs 5 updates a round and 4 .*aggregator.byzantine=0"),
        ("krum", 2, {"byzantine": 0}, "--aggregator median"),
        ("multi_krum", 8, {"byzantine": 3}, "aggregator.byzantine=2"),
        ("multi_krum", 8, {"byzantine": 2, "keep": 7}, r"keep=7 of 8 .*aggregator.keep=6"),
        ("trimmed_mean", 2, {}, r"trim=0.2 would cut 1 of 2 .*--aggregator median"),
        ("trimmed_mean", 3, {"trim": 0.4}, "cut 2 of 3"),
        ("clustered", 3, {"clusters": 4}, r"4 clusters of 3 .*aggregator.clusters=3"),
        ("dnc", 8, {"malicious": 4}, r"would drop 4 of 8 .*smaller --set aggregator.malicious"),
        ("bucketing", 8, {"rule": "krum"}, r"byzantine=1 needs 5 updates a round and 4 "),
        ("fltrust", 8, {}, r"--set aggregator.root=NUMBER"),
    ],
)
def test_options_that_cannot_work_are_refused_at_the_start(name, clients, options, said):
    with pytest.raises(ConfigError, match=said):
        build_aggregator(name, options).check(clients)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_work_with_the_default_task(name):
    assert build_aggregator(name, OPTIONS.get(name, {})).check(8) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_what_is_drawn_and_nothing_else(name, crowd):
    shared, prompts, samples = crowd
    rule = build_aggregator(name, OPTIONS.get(name, {}))

    def merged(seed):
        seeded = rule.seeded(seed)
        assert type(seeded) is type(rule)
        return seeded.apply(shared, updates_of(prompts, samples), seeded.init(shared))[0]

    assert merged(3) == merged(3)
    assert (merged(3) == merged(4)) is (name not in ("bucketing", "crfl")), "dnc looks at all of so short a prompt"


@pytest.mark.parametrize("name", NAMES)
def test_server_memory_goes_on_from_its_bytes(name, crowd):
    shared, prompts, samples = crowd
    rule = build_aggregator(name, OPTIONS.get(name, {})).seeded(5)
    rounds = [updates_of([p * (1 + r) for p in prompts], samples) for r in range(4)]
    prompt, server, copy, restored = shared, rule.init(shared), shared, rule.init(shared)
    for updates in rounds:
        prompt, server = rule.apply(prompt, updates, server)
        copy, restored = rule.apply(copy, updates, PromptState.from_bytes(restored.to_bytes()))
    assert copy == prompt
    assert restored == server


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_that_needs_a_sum_alone_gets_the_same_from_it(name, crowd):
    """One update with the mean of changes in the place of all of them, each short enough for any bound."""
    shared, prompts, _ = crowd
    prompts = [shared + 0.1 * (p - shared) for p in prompts]
    mean = sum(prompts[1:], prompts[0]) * (1 / 7)
    each, total = updates_of(prompts, [2] * 7), [Update(-1, mean, 14, 0.0, 0.0)]
    if build_aggregator(name, OPTIONS.get(name, {})).needs == "sum":
        assert_close(after(name, shared, [each] * 3)[1], after(name, shared, [total] * 3)[1])


def test_sums_are_enough_for_these():
    enough = {name for name in NAMES if AGGREGATORS[name].needs == "sum"}
    family = {"fedavgm", "fedadagrad", "fedadam", "fedyogi"}
    assert enough == {"mean", "uniform", "interpolated", "norm_bound", "crfl", *family}


def test_a_wrapped_rule_sees_each_update_unless_it_says_otherwise():
    class Blind(AggregatorWrapper):
        sees_each = False

    mean, median = build_aggregator("mean", {}), build_aggregator("median", {})
    assert AggregatorWrapper(mean).needs == "each"
    assert Blind(mean).needs == "sum"
    assert Blind(median).needs == "each"
    assert Blind(Blind(mean)).needs == "sum"
