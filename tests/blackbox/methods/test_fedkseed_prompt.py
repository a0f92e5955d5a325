from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.base import build_aggregator
from promptfed.aggregators.mean import Mean
from promptfed.blackbox.base import ClientOracle
from promptfed.blackbox.methods.fedkseed_prompt import FedKSeedConfig, FedKSeedPrompt, direction, position, step
from promptfed.local_only_wrapper import LocalOnlyWrapper
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Update


def make(setup, **options):
    usual = {"queries": 60, "batch_size": 3, "n_tokens": 2, "dim": 6, "lr": 0.7, "eps": 0.5, "clip": 5.0}
    return FedKSeedPrompt(FedKSeedConfig(**{**usual, **options}), setup)


def trained(method, data, round=1, shared=None):
    sent = method.init_shared() if shared is None else shared
    return method.train(Broadcast(round, sent), data, NO_PROMPT)


def server_of(method):
    return method.server_side(build_aggregator("mean", {}))


def spy(monkeypatch):
    """What the client asks the losses of, and what it is told."""
    seen = []
    losses = ClientOracle.losses

    def watched(self, candidates, rows, **options):
        found = losses(self, candidates, rows, **options)
        seen.append((candidates, rows, found))
        return found

    monkeypatch.setattr(ClientOracle, "losses", watched)
    return seen


def test_a_direction_is_known_by_its_seed():
    # A numpy that draws otherwise would break replay between machines: these values are part of the wire format.
    known = [-0.2933390140533447, 1.703830599784851, 1.5391918420791626]
    assert direction(7, 3).dtype == np.float32
    assert direction(7, 3).tolist() == known
    assert (direction(7, 5)[:3] == direction(7, 3)).all()
    assert (direction(2**63 - 1, 3) != direction(0, 3)).all()
    assert abs(direction(3, 4000).mean()) < 0.05
    assert abs(direction(3, 4000).std() - 1) < 0.05


def test_scalars_are_two_sided_differences_on_one_minibatch(black_setup, text_task, monkeypatch):
    seen, method = spy(monkeypatch), make(black_setup)
    update, _ = trained(method, text_task.clients[0])
    z, config = np.zeros(6, dtype=np.float32), method.config
    assert len(seen) == len(update.shared["seeds"]) == 10
    for (prompts, rows, losses), seed, scalar in zip(
        seen, update.shared["seeds"].tolist(), update.shared["scalars"].numpy(), strict=True
    ):
        u = direction(seed, 6)
        for prompt, sign in zip(prompts, (1, -1), strict=True):
            expected = method.projection.vectors(torch.from_numpy(z + np.float32(sign * config.eps) * u))
            torch.testing.assert_close(prompt.soft, expected, rtol=0, atol=0)
        items = [text_task.clients[0].train.items[i] for i in rows.tolist()]
        scores = method.oracle.score(prompts, items, method.setup.classes)
        by_hand = [F.cross_entropy(one, text_task.clients[0].train.labels[rows]).item() for one in scores]
        assert losses == pytest.approx(by_hand, abs=1e-6)
        assert scalar == pytest.approx((by_hand[0] - by_hand[1]) / (2 * config.eps), abs=1e-5)
        z = z - np.float32(config.lr) * scalar * u
    merged, _ = server_of(method).apply(method.init_shared(), [update], NO_PROMPT)
    assert merged["z"].numpy().tobytes() == z.tobytes()


@pytest.mark.parametrize("pool", [None, 4])
def test_the_server_arrives_where_its_only_client_is(black_setup, text_task, pool, monkeypatch):
    seen, method = spy(monkeypatch), make(black_setup, pool=pool)
    shared = method.init_shared()
    for round in (1, 2):
        update, _ = trained(method, text_task.clients[1], round, shared)
        *_, (prompts, _, _) = seen  # the last pair stands around where the client was before its last step
        before, _ = server_of(method).apply(shared, [cut(update, -1)], NO_PROMPT)
        u = np.float32(method.config.eps) * direction(int(update.shared["seeds"][-1]), 6)
        middle = position(before, method.config)
        assert torch.equal(prompts[0].soft, method.projection.vectors(torch.from_numpy(middle + u)))
        assert torch.equal(prompts[1].soft, method.projection.vectors(torch.from_numpy(middle - u)))
        shared, _ = server_of(method).apply(shared, [update], NO_PROMPT)
    if pool is not None:
        assert set(shared) == {"sums"}
        assert shared["sums"].shape == (4,)


def cut(update, stop):
    return replace(update, shared=PromptState({name: t[:stop] for name, t in update.shared.items()}))


def test_sums_over_a_pool_are_the_same_steps(black_setup):
    one, other = make(black_setup).config, make(black_setup, pool=5).config
    z, sums = PromptState({"z": torch.zeros(6)}), PromptState({"sums": torch.zeros(5)})
    for seed, scalar in [(3, 0.5), (0, -1.25), (3, 0.125), (4, 2.0)]:
        z, sums = step(z, seed, np.float32(scalar), one), step(sums, seed, np.float32(scalar), other)
    assert sums["sums"].tolist() == [-1.25, 0, 0, 0.625, 2.0]
    np.testing.assert_allclose(position(z, one), position(sums, other), atol=1e-6)


def test_the_server_averages_arrivals_by_sample_count(black_setup, text_task):
    method = make(black_setup)
    updates = [trained(method, data)[0] for data in text_task.clients[:2]]
    updates[1] = replace(updates[1], samples=12)
    server = server_of(method)
    ends = [server.apply(method.init_shared(), [update], NO_PROMPT)[0]["z"] for update in updates]
    merged, _ = server.apply(method.init_shared(), updates, NO_PROMPT)
    torch.testing.assert_close(merged["z"], 0.25 * ends[0] + 0.75 * ends[1])


def test_twelve_bytes_a_step(black_setup, text_task):
    method = make(black_setup, queries=600)
    long, short = (
        trained(method, text_task.clients[0])[0].shared,
        trained(make(black_setup), text_task.clients[0])[0].shared,
    )
    assert set(long) == set(method.uploads(0, method.init_shared())) == {"seeds", "scalars"}
    assert (long["seeds"].dtype, long["scalars"].dtype) == (torch.int64, torch.float32)
    assert long["seeds"].min() >= 0
    assert sum(t.nbytes for t in long.values()) == 12 * 100
    assert sum(t.nbytes for t in short.values()) == 12 * 10
    assert len(long.to_bytes()) - 12 * 100 < 200  # the header
    again = PromptState.from_bytes(long.to_bytes())
    assert torch.equal(again["seeds"], long["seeds"])


def test_it_asks_for_no_more_than_its_allowance(black_setup, text_task):
    method = make(black_setup, queries=65)
    update, _ = trained(method, text_task.clients[0])
    assert method.oracle.usage().oracle_queries == 60
    assert len(update.shared["seeds"]) == 10
    nothing, _ = trained(make(black_setup, queries=5), text_task.clients[0])
    assert nothing.shared["seeds"].shape == nothing.shared["scalars"].shape == (0,)
    assert server_of(method).apply(method.init_shared(), [nothing], NO_PROMPT)[0] == method.init_shared()


def test_steps_are_bounded_on_both_sides_of_the_wire(black_setup, text_task):
    method = make(black_setup, clip=0.01)
    update, _ = trained(method, text_task.clients[0])
    assert update.shared["scalars"].abs().max() == np.float32(0.01)
    server, start, scalars = server_of(method), method.init_shared(), update.shared["scalars"]

    def after(scalars):
        sent = replace(update, shared=PromptState({**update.shared, "scalars": scalars}))
        return server.apply(start, [sent], NO_PROMPT)[0]["z"]

    assert torch.equal(after(scalars * 1e9), after(scalars.sign() * 0.01))


@pytest.mark.parametrize(
    "seeds", [torch.tensor([1, 2]), torch.tensor([-1]), torch.tensor([4]), torch.tensor([1.0])], ids=repr
)
def test_what_cannot_be_replayed_is_left_out(black_setup, seeds):
    method = make(black_setup, pool=4)
    update = Update(0, PromptState({"seeds": seeds, "scalars": torch.ones(1)}), 4, 0.0, 0.0)
    good = Update(1, PromptState({"seeds": torch.tensor([3]), "scalars": torch.ones(1)}), 4, 0.0, 0.0)
    server, start = server_of(method), method.init_shared()
    assert server.apply(start, [update], NO_PROMPT) == (start, NO_PROMPT)
    assert server.apply(start, [update, good], NO_PROMPT)[0]["sums"].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("pool", [None, 8])
@pytest.mark.parametrize("options", [{}, {"clients": [1]}, {"dropout": 0.5, "rounds": 3}, {"participation": 0.3}])
def test_federations_of_any_size_are_repeatable(black_setup, text_task, federate, options, pool):
    first = federate(make(black_setup, pool=pool), text_task, **options)
    assert first.shared == federate(make(black_setup, pool=pool), text_task, **options).shared
    assert first.shared.norm() > 0


def test_clients_do_not_depend_on_each_other(black_setup, text_task):
    one = [trained(make(black_setup), data)[0].shared for data in text_task.clients]
    other = [trained(make(black_setup), data)[0].shared for data in reversed(text_task.clients)]
    assert one == other[::-1]
    assert not torch.equal(one[0]["seeds"], one[1]["seeds"])


def test_it_learns_that_texts_say_too_cold(black_setup, text_task, federate):
    method = make(black_setup, queries=240)
    state = federate(method, text_task, rounds=3)
    assert method.candidate(state.shared, NO_PROMPT).soft.mean() > method.projection.start.mean() + 0.1


def test_a_client_alone_takes_the_same_first_round(black_setup, text_task):
    method = make(black_setup)
    alone = LocalOnlyWrapper(method, Mean(Mean.Config()))
    _, kept = alone.train(Broadcast(1, NO_PROMPT), text_task.clients[0], alone.init_personal(0))
    update, _ = trained(make(black_setup), text_task.clients[0])
    assert torch.equal(kept["shared/z"], server_of(method).apply(method.init_shared(), [update], NO_PROMPT)[0]["z"])


# ------------------------------------------------------------------------------------ steps along the round's seeds


def test_all_clients_step_along_the_seeds_of_the_round(black_setup, text_task):
    method = make(black_setup, seeds="round")
    shared = method.init_shared()
    assert shared["seeds"].shape == (10,), "60 queries, two prompts on three examples a step"
    assert shared["scalars"].tolist() == [0.0] * 10
    updates = [trained(method, data, shared=shared)[0] for data in text_task.clients]
    assert all(set(update.shared) == set(method.uploads(0, shared)) == {"scalars"} for update in updates)
    assert all(update.shared["scalars"].shape == (10,) for update in updates)
    assert not torch.equal(updates[0].shared["scalars"], updates[1].shared["scalars"])


@pytest.mark.parametrize("pool", [None, 4])
def test_steps_of_the_mean_end_at_the_mean_of_the_ends(black_setup, text_task, pool):
    method = make(black_setup, seeds="round", pool=pool)
    server, shared = server_of(method), method.init_shared()
    updates = [trained(method, data, shared=shared)[0] for data in text_task.clients]
    scalars = torch.stack([update.shared["scalars"].double() for update in updates]).mean(0).float()
    by_hand = -0.7 * sum(
        scalar * direction(int(seed), 6) for seed, scalar in zip(shared["seeds"], scalars.numpy(), strict=True)
    )
    whole, _ = server.apply(shared, updates, NO_PROMPT)
    one = replace(updates[0], shared=PromptState({"scalars": scalars}))
    mean, _ = server.apply(shared, [one], NO_PROMPT)
    for state in (whole, mean):
        np.testing.assert_allclose(position(state, method.config), by_hand, atol=1e-6)


def test_each_round_has_seeds_of_its_own_and_zeros_again(black_setup, text_task):
    method = make(black_setup, seeds="round")
    server, shared = server_of(method), method.init_shared()
    assert torch.equal(shared["seeds"], method.init_shared()["seeds"])
    update = trained(method, text_task.clients[0], shared=shared)[0]
    following, _ = server.apply(shared, [update], NO_PROMPT)
    assert not set(following["seeds"].tolist()) & set(shared["seeds"].tolist())
    assert following["scalars"].tolist() == [0.0] * 10
    again, _ = server.apply(shared, [trained(method, text_task.clients[1], shared=shared)[0]], NO_PROMPT)
    assert torch.equal(following["seeds"], again["seeds"]), "they say nothing of anybody's data"


def test_a_client_with_few_examples_takes_as_many_steps(black_setup, text_task, text_split):
    method = make(black_setup, seeds="round")
    few = replace(text_task.clients[0], train=text_split("hot: fire"))
    assert trained(method, few)[0].shared["scalars"].shape == (10,)


def test_a_step_without_a_slope_is_none(black_setup, text_task, monkeypatch):
    monkeypatch.setattr(ClientOracle, "losses", lambda self, prompts, rows, **options: np.array([np.nan, 1.0]))
    monkeypatch.setattr(ClientOracle, "affords", lambda self, prompts, rows=None: True)
    update, _ = trained(make(black_setup, seeds="round"), text_task.clients[0])
    assert update.shared["scalars"].tolist() == [0.0] * 10
