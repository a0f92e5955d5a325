"""Secure sums over Flower: what the sites come to, what the server sees, and who is lost on the way."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import chi2

pytest.importorskip("flwr")
pytest.importorskip("cryptography")

from flwr.common.serde import recorddict_to_proto

from promptfed.deployment import codec, messages
from promptfed.deployment.parcels import wrapped
from promptfed.deployment.site_pool import ATTEMPTS
from promptfed.deployment.sum_words import MASKED, WORDS, SumAnswer
from promptfed.errors import TrainingError
from promptfed.privacy.fixed_point import FixedPoint
from promptfed.privacy.noise_shares import NoiseShares
from promptfed.privacy.noised_sums import NoisedMean
from promptfed.privacy.release import PrivateMean

from .secure_sites import KEY, TERMS, changes_of, files_of, intercept, one_round, secure_sites, simulation_site, values

LEGS = ("keys", "shares", "masked", "consent", "unmask")
NOISED = {"dp": "client", "noise": 1.5, "delta": 1e-3, "clip": 0.5, "secure_aggregation": True, "noise_at": "clients"}


@pytest.fixture
def secure(simulate):
    """``secure(clients, **options)``: sites that sum their changes."""
    return partial(secure_sites, simulate)


# ----------------------------------------------------------------------------------------------- all goes well


def test_two_rounds_end_at_the_plain_mean_and_no_update_is_seen(secure, small):
    simulation = secure()
    start, changes = changes_of(small, 3)
    state, replies, incidents = one_round(simulation)
    assert incidents == []
    assert (values(state) - start - torch.stack(changes).mean(0)).abs().max() < 1e-6
    assert [reply.failure for reply in replies] == ["", "", ""]
    assert all(len(reply.update.shared) == 0 for reply in replies)
    assert all(np.isnan(reply.update.loss) and np.isnan(reply.update.accuracy) for reply in replies)

    fixed = FixedPoint(TERMS["clip"], 3)
    steps = [fixed.encode(change.numpy(), 1, bytes(32)).view(np.int32).astype(np.int64) for change in changes]
    for client in range(3):
        [trained] = simulation.sniffed["Train", client]
        assert len(trained["arrays"]) == 0, "no array goes up in the answer to a training question"
        words = codec.unpack(trained, messages.TrainAnswer).words
        assert (words.loss, words.accuracy, words.is_held) == (None, None, True)
        for leg in set(LEGS) - {"masked"}:
            assert [len(answer["arrays"]) for answer in simulation.sniffed[leg, client]] == [0]
        [masked] = simulation.sniffed["masked", client]
        seen = codec.unpack(masked, SumAnswer).parts[MASKED][WORDS].numpy().astype(np.int64)
        for other in steps:
            assert (np.abs(seen - other) < 2).mean() < 0.1, "masked words are near nobody's change"
    assert any("secure sum of round 1 over 3 of 3 sites" in line for line in simulation.said)
    assert files_of(simulation) == ["sum.json", "summed"], "the change is gone"
    kept = json.loads((simulation.folder / "site-0" / simulation.agreement.run / "promptfl" / "sum.json").read_text())
    assert {"client", "round", "question", "answer"} <= set(kept)
    assert not {"member", "size", "identities"} & set(kept), "secrets are gone, the last answer is there"
    again, _, incidents = one_round(simulation, state)
    assert incidents == []
    assert (values(again) - values(state)).norm() > 1e-4


def test_what_is_counted_is_what_travels(secure):
    """Of every leg the serialised message counts, in the reply and in what the server prints."""
    simulation, asked = secure(), Counter()

    def weigh(leg, question, answered):
        asked[leg == "Train"] += codec.wire_bytes(wrapped(question))
        return answered(question)

    intercept(simulation, 200, weigh)
    state, replies, _ = one_round(simulation)
    trained, *legs = (simulation.sniffed[leg, 1][0] for leg in ("Train", *LEGS))
    up, down = sum(codec.wire_bytes(wrapped(answer)) for answer in legs), asked[False]
    assert (replies[1].sum_bytes_up, replies[1].sum_bytes_down) == (up, down)
    assert (replies[1].bytes_up, replies[1].bytes_down) == (codec.wire_bytes(wrapped(trained)), asked[True])
    serialised = sum(len(recorddict_to_proto(answer).SerializeToString()) for answer in legs)
    assert serialised <= up < serialised + 5 * 2_000, "besides Flower's headers of its objects"
    assert up > 4 * len(values(state)) > replies[1].bytes_up / 2
    [line] = [line for line in simulation.said if "secure sum of round 1" in line]
    assert f"{max(reply.sum_bytes_up for reply in replies):,} bytes up" in line
    assert simulation.engine.sums.traffic == {}, "the next round begins to count anew"


def test_what_a_site_keeps_between_legs_is_its_owner_s_alone(secure):
    simulation, modes = secure(), []

    def look(leg, question, answered):
        answer = answered(question)
        folder = simulation.folder / "site-0"
        paths = [folder / "identity", *(folder / simulation.agreement.run / "promptfl").glob("sum*")]
        modes.extend(oct(path.stat().st_mode & 0o777) for path in paths)
        return answer

    intercept(simulation, 100, look)
    one_round(simulation)
    assert set(modes) == {"0o600"}
    assert len(modes) > 10


def test_every_leg_may_meet_a_new_process_and_a_repeated_question(secure, small):
    simulation = secure()
    start, changes = changes_of(small, 3)

    def restarts(leg, question, answered):
        first = simulation_site(simulation, 1)(question)
        if leg == "Train":
            return first
        again = simulation_site(simulation, 1)(question)  # as if the answer had been lost
        kinds = SumAnswer
        one, other = codec.unpack(first, kinds), codec.unpack(again, kinds)
        assert one.words == other.words
        assert one.parts == other.parts
        return again

    intercept(simulation, 200, restarts)
    state, _, incidents = one_round(simulation)
    assert incidents == []
    assert (values(state) - start - torch.stack(changes).mean(0)).abs().max() < 1e-6


def test_the_server_s_noise_goes_on_the_sum(secure, simulate):
    terms = {"dp": "client", "noise": 1.5, "delta": 1e-3, "clip": 0.5}
    simulation = secure(privacy_options={**terms, "secure_aggregation": True})
    release = PrivateMean(KEY, 0.5, 0.0, range(3), sums=simulation.engine.sums)
    state, _, incidents = one_round(simulation, release=release)
    plain = simulate(privacy_options=terms)
    expected, *_ = one_round(plain, release=PrivateMean(KEY, 0.5, 0.0, range(3)))
    assert incidents == []
    assert plain.engine.sums is None
    assert (state.shared - expected.shared).norm() < 1e-5
    noisy = PrivateMean(KEY, 0.5, 1.5, range(3), sums=simulation.engine.sums)
    after, *_ = one_round(simulation, state, noisy)
    assert (after.shared - state.shared).norm() > 1


def test_sites_add_their_noise_and_the_server_holds_no_sum_without_it(secure, small):
    start, changes = changes_of(small, 4)
    exact, noises, spent = torch.stack(changes).sum(0), [], []
    for _ in range(2):  # two runs that are alike
        simulation = secure(clients=4, privacy_options=NOISED)
        release = NoisedMean(KEY, 0.5, NoiseShares(1.5, 3), range(4), simulation.engine.sums, spent.append)
        state, replies, incidents = one_round(simulation, release=release)
        assert incidents == []
        noises.append((values(state) - start) * 4 - exact)
    deviation = 1.5 * 0.5 * math.sqrt(4 / 3)
    for noise in noises:
        low, high = chi2.ppf([5e-6, 1 - 5e-6], len(noise))
        assert low < (noise.norm() / deviation) ** 2 < high
    assert abs(torch.corrcoef(torch.stack(noises))[0, 1]) < 5 / math.sqrt(len(exact)), "fresh bytes for each sum"
    assert all(len(reply.update.shared) == 0 for reply in replies)
    assert [each.multiplier for each in spent] == [1.5, 1.5]


def test_a_lost_site_takes_its_noise_along_and_a_repeated_question_gets_the_same(secure, small):
    simulation = secure(clients=4, privacy_options=NOISED)
    start, changes = changes_of(small, 4, left_out=[2], clip=0.5)

    def fails(leg, question, answered):
        if leg == "masked":
            raise MemoryError("no more memory")
        return answered(question)

    def restarts(leg, question, answered):
        first = simulation_site(simulation, 1)(question)
        return first if leg == "Train" else simulation_site(simulation, 1)(question)

    intercept(simulation, 300, fails)
    intercept(simulation, 200, restarts)
    release = NoisedMean(KEY, 0.5, NoiseShares(1.5, 3), range(4), simulation.engine.sums)
    state, _, incidents = one_round(simulation, release=release)
    assert incidents == []
    noise = (values(state) - start) * 4 - torch.stack(changes).sum(0)
    low, high = chi2.ppf([5e-6, 1 - 5e-6], len(noise))
    assert low < (noise.norm() / (1.5 * 0.5)) ** 2 < high, "three of four are what the noise was planned for"


def test_under_noise_a_site_whose_work_fails_takes_part_with_no_change(secure):
    terms = {"dp": "client", "noise": 1.5, "delta": 1e-3, "clip": 0.5, "secure_aggregation": True}
    simulation = secure(privacy_options=terms)

    def fails(leg, question, answered):
        if leg != "Train":
            return answered(question)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("promptfed.engines.worker.ClientWorker._trained", breaks)
            return answered(question)

    def breaks(worker, jobs):
        raise TrainingError("the loss is not finite")

    intercept(simulation, 200, fails)
    release = PrivateMean(KEY, 0.5, 0.0, range(3), sums=simulation.engine.sums)
    before = simulation.experiment.federation().start()
    state, replies, incidents = one_round(simulation, release=release)
    assert incidents == []
    assert "not finite" in replies[1].failure
    assert any("secure sum of round 1 over 3 of 3 sites" in line for line in simulation.said)
    assert state.shared != before.shared


# ------------------------------------------------------------------------------------------------ who is lost


@pytest.mark.parametrize("leg", ["Train", *LEGS])
def test_a_site_that_is_lost_in_a_leg_costs_its_part_alone(leg, secure, small):
    simulation = secure(clients=4)
    lost = [] if leg in ("consent", "unmask") else [2]

    def fails(at, question, answered):
        if at == leg:
            raise MemoryError("no more memory")
        return answered(question)

    intercept(simulation, 300, fails)
    state, replies, incidents = one_round(simulation)
    start, changes = changes_of(small, 4, left_out=lost)
    assert incidents == []
    assert len(changes) == 4 - len(lost)
    assert (values(state) - start - torch.stack(changes).mean(0)).abs().max() < 1e-6
    assert [bool(reply.failure) for reply in replies] == [False, False, leg == "Train", False]


def test_a_site_that_lost_its_state_has_dropped_out(secure):
    simulation = secure(clients=4)

    def loses(leg, question, answered):
        if leg == "masked":
            (simulation.folder / "site-2" / simulation.agreement.run / "promptfl" / "sum.json").unlink()
        return answered(question)

    intercept(simulation, 300, loses)
    _, _, incidents = one_round(simulation)
    assert incidents == []
    assert any("holds no change of round 1: it has dropped out" in line for line in simulation.said)


def test_too_few_for_a_sum_leave_the_prompt_as_it_was_and_the_run_goes_on(secure):
    simulation, broken = secure(), [True] * ATTEMPTS

    def fails(leg, question, answered):
        if leg == "masked" and broken:
            broken.pop()
            raise MemoryError("no more memory")
        return answered(question)

    intercept(simulation, 300, fails)
    before = simulation.experiment.federation().start()
    state, _, [incident] = one_round(simulation)
    assert state.shared == before.shared
    assert "ends in the leg of 'masked': 2 of 3 clients are left, and it needs 3" in incident.why
    assert files_of(simulation) == ["sum.json", "sum.safetensors", "summed"]
    after, _, incidents = one_round(simulation, state)
    assert incidents == []
    assert after.shared != state.shared
    assert files_of(simulation) == ["sum.json", "summed"], "the newer round wiped what was left"
