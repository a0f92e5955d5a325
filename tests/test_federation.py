from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from promptfed.aggregators.base import AGGREGATORS, build_aggregator
from promptfed.aggregators.mean import Mean, mean_by_samples
from promptfed.engines.base import Engine
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import TrainingError
from promptfed.federation import Federation
from promptfed.methods.local_only import LocalOnly
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextConfig
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def method(setup):
    return PromptFL(PromptFLConfig(), setup)


@pytest.fixture
def federation(method, toy_task):
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))


def rounds(federation, state, count):
    for _ in range(count):
        state, _ = federation.run_round(state)
    return state


def test_an_interrupted_round_ends_as_if_it_had_not_been(federation):
    whole = rounds(federation, federation.start(), 3)
    for stop_after in range(3):
        state = rounds(federation, federation.start(), 1)
        asked = itertools.count()
        state, replies = federation.run_round(state, should_stop=lambda k=stop_after, n=asked: next(n) >= k)
        assert state.round == 1
        assert len(state.pending) == len(replies) == stop_after
        assert rounds(federation, state, 2).shared == whole.shared


def test_participants_are_drawn_by_seed_and_round_alone(method):
    half = Federation(method, Mean(Mean.Config()), LocalEngine(lambda job: None), range(10), participation=0.5)
    again = Federation(method, Mean(Mean.Config()), LocalEngine(lambda job: None), range(9, -1, -1), participation=0.5)
    drawn = [half.participants(r) for r in range(1, 30)]
    assert drawn == [again.participants(r) for r in range(1, 30)]
    assert all(len(set(d)) == 5 and d == sorted(d) for d in drawn)
    assert set().union(*drawn) == set(range(10)), "everybody's turn comes"
    assert Federation(method, Mean(Mean.Config()), LocalEngine(lambda job: None), range(10), 0.01).participants(1)


def test_the_server_side_is_asked_once_for_each_broadcast_of_a_round(method, toy_task):
    questions = []

    class Counting(Mean):
        def broadcast(self, shared, server, client):
            questions.append((shared, client))
            return shared * 1.0  # another object each time: who asks twice cannot hide it

    counted = Federation(method, Counting(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3), 0.67)
    state, merged = counted.start(), []
    for round in range(1, 4):
        broadcasts = counted.broadcasts(state)
        assert list(broadcasts) == counted.participants(round)
        state, _ = counted.run_round(state, broadcasts=broadcasts)
        assert all(counted.prompts(state)[client].shared is counted.broadcast(state, client) for client in range(3))
        merged.append(state.shared)
    for shared in merged:
        assert sorted((client for of, client in questions if of is shared), key=str) == [0, 1, 2, None]


def test_a_state_that_names_only_those_that_trained_is_whole_again(setup, toy_task):
    method = LocalOnly(ContextConfig(), setup)
    ours = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3), 0.34)
    after, replies = ours.run_round(ours.start())
    bare = replace(after, personal={replies[0].client: replies[0].personal})
    assert ours.resumed(bare).personal == after.personal == {**ours.start().personal, **bare.personal}
    assert rounds(ours, bare, 2).personal == rounds(ours, after, 2).personal


def test_results_do_not_depend_on_the_order_in_which_clients_finish(method, toy_task, federation):
    class Backwards(Engine):
        def run_round(self, jobs, on_reply=None, should_stop=None, seconds=None):
            worker = ClientWorker(method, toy_task)
            return worker(list(reversed(jobs)))

    turned = Federation(method, Mean(Mean.Config()), Backwards(), range(3))
    assert rounds(turned, turned.start(), 2).shared == rounds(federation, federation.start(), 2).shared


def test_clients_that_sit_out_keep_their_personal_state(setup, toy_task):
    method = LocalOnly(ContextConfig(), setup)
    fed = Federation(
        method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3), participation=0.34
    )
    start = fed.start()
    state, replies = fed.run_round(start)
    worked = {r.client for r in replies}
    assert len(worked) == 1
    assert all((state.personal[c] == start.personal[c]) == (c not in worked) for c in range(3))


# ------------------------------------------------------------------------------------------------ faults


class Diary(PromptFL):
    """PromptFL whose clients keep a count of the rounds in which they trained."""

    def init_personal(self, client):
        return PromptState({"rounds": torch.zeros(1)})

    def split_update(self, trained, broadcast, data, personal):
        return trained, personal.map(lambda t: t + 1)


@pytest.fixture
def diary(setup):
    return Diary(PromptFLConfig(), setup)


@pytest.fixture
def federate(diary, toy_task):
    """``federate(spoil, **options)``: a federation in which ``spoil(reply)`` stands for what a client really sends."""

    def build(spoil=lambda reply: reply, dropout=0.0, client_batch=1, server=None, **options):
        worker = ClientWorker(diary, toy_task, dropout)
        engine = LocalEngine(lambda jobs: [spoil(reply) for reply in worker(jobs)], client_batch)
        return Federation(diary, server or Mean(Mean.Config()), engine, range(3), **options)

    return build


def kept(state):
    """How many rounds each client's personal prompt says it trained in."""
    return [int(state.personal[client]["rounds"]) for client in range(3)]


def sends(reply, prompt, **changes):
    return replace(reply, update=replace(reply.update, shared=prompt, **changes))


def filled(state, value):
    return state.map(lambda t: torch.full_like(t, value))


SPOILED = {
    "NaN": (lambda r: sends(r, filled(r.update.shared, float("nan"))), "numbers that are not finite"),
    "infinity": (lambda r: sends(r, filled(r.update.shared, float("inf"))), "numbers that are not finite"),
    "one NaN among many numbers": (
        lambda r: sends(r, r.update.shared.map(lambda t: torch.where(torch.arange(t.shape[1]) == 2, torch.nan, t))),
        "numbers that are not finite",
    ),
    "NaN kept": (lambda r: replace(r, personal=filled(r.personal, float("nan"))), "numbers that are not finite"),
    "shape": (lambda r: sends(r, r.update.shared.map(lambda t: t[:1])), r"'ctx' is \(1, 4\) instead of \(16, 4\)"),
    "names": (lambda r: sends(r, PromptState({"ctx2": r.update.shared["ctx"]})), r"names \['ctx2'\] instead of"),
    "one name more": (lambda r: sends(r, PromptState({**r.update.shared, "x": torch.ones(1)})), "names"),
    "nothing": (lambda r: sends(r, PromptState()), r"names \[\] instead of \['ctx'\]"),
    "no samples": (lambda r: sends(r, r.update.shared, samples=0), "an update for 0 samples"),
    "negative samples": (lambda r: sends(r, r.update.shared, samples=-5), "an update for -5 samples"),
}
RULE_OPTIONS = {"krum": {"byzantine": 0}, "multi_krum": {"byzantine": 0}, "fltrust": {"root": 0}}


@pytest.mark.parametrize("how", SPOILED)
def test_a_bad_update_is_refused_and_the_round_goes_on_with_the_rest(federate, how):
    spoil, said = SPOILED[how]
    fed, heard = federate(lambda reply: spoil(reply) if reply.client == 1 else reply), []
    start = fed.start()
    state, replies = fed.run_round(start, heard.append)
    assert [bool(r.failure) for r in replies] == [False, True, False]
    with pytest.raises(TrainingError, match=said):
        raise TrainingError(replies[1].failure)
    assert replies[1].failure.startswith("refused: client 1 sent ")
    assert repr(heard) == repr(list(replies)), "whoever listens hears of it as it happens"  # NaNs differ, texts do not
    assert kept(state) == [1, 0, 1]
    good = [replies[0].update, replies[2].update]
    assert state.shared == mean_by_samples(start.shared, good)
    assert state.round == 1


@pytest.mark.parametrize("name", tuple(AGGREGATORS))
def test_no_aggregator_ever_sees_a_bad_update(federate, name):
    nan, server = SPOILED["NaN"][0], build_aggregator(name, RULE_OPTIONS.get(name, {}))
    fed = federate(lambda r: nan(r) if r.client == 1 else r, server=server)
    state = rounds(fed, fed.start(), 4)
    assert state.shared.is_finite()
    assert state.server.is_finite()
    assert all(prompt.shared.is_finite() for prompt in fed.prompts(state).values())
    assert state.shared != fed.start().shared


def test_when_all_updates_are_bad_training_stops_with_the_reason(federate):
    fed = federate(SPOILED["NaN"][0])
    with pytest.raises(TrainingError, match=r"^client 0 sent numbers that are not finite in round 1$"):
        fed.run_round(fed.start())


def test_a_client_that_fails_costs_its_own_update_only(setup, make_split, toy_task):
    class Stumbling(Diary):
        def problem(self, broadcast, data, personal):
            if data.client == 1 and broadcast.round == 2:
                raise TrainingError("client 1 stumbled")
            return super().problem(broadcast, data, personal)

    found = []
    for client_batch in (1, 2, 3):
        method = Stumbling(PromptFLConfig(), setup)
        engine = LocalEngine(ClientWorker(method, toy_task), client_batch)
        fed = Federation(method, Mean(Mean.Config()), engine, range(3))
        state, _ = fed.run_round(fed.start())
        state, replies = fed.run_round(state)
        assert [r.failure for r in replies] == ["", "error: client 1 stumbled", ""]
        assert kept(state) == [2, 1, 2]
        found.append(state.shared["ctx"])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)


def test_all_failing_stops_training_but_all_dropping_out_does_not(setup, toy_task, federate):
    class Broken(PromptFL):
        def problem(self, broadcast, data, personal):
            raise TrainingError(f"the loss of client {data.client} is nan")

    method = Broken(PromptFLConfig(), setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    with pytest.raises(TrainingError, match=r"^the loss of client 0 is nan$"):
        fed.run_round(fed.start())

    lonely = federate(dropout=1.0)
    state, replies = lonely.run_round(lonely.start())
    assert {r.failure for r in replies} == {"dropped out"}
    assert state.shared == lonely.start().shared
    assert kept(state) == [0, 0, 0]


def test_drop_outs_are_drawn_by_seed_round_and_client(federate, setup):
    def history(fed, count=8):
        state, lost = fed.start(), []
        for _ in range(count):
            state, replies = fed.run_round(state)
            lost.append([r.client for r in replies if r.failure == "dropped out"])
        return state, lost

    state, lost = history(federate(dropout=0.5))
    again, lost_again = history(federate(dropout=0.5, client_batch=3))
    assert lost == lost_again
    assert state.round == again.round == 8
    torch.testing.assert_close(again.shared["ctx"], state.shared["ctx"], rtol=1e-5, atol=1e-5)
    assert len({tuple(clients) for clients in lost}) > 2, "not the same ones every round"
    assert 4 <= sum(map(len, lost)) <= 20, "about half of 24"
    assert kept(state) == [8 - sum(client in clients for clients in lost) for client in range(3)]


def test_with_drop_outs_an_interrupted_run_ends_with_the_same_bits(federate, tmp_path):
    whole = federate(dropout=0.5, participation=0.67, server=build_aggregator("fedadam", {}))
    end = rounds(whole, whole.start(), 5)
    for stop_after in (0, 1):
        fed = federate(dropout=0.5, participation=0.67, server=build_aggregator("fedadam", {}))
        state = fed.start()
        while state.round < 5:  # every round is cut short once, saved and loaded
            asked = itertools.count()
            state, _ = fed.run_round(state, should_stop=lambda n=asked, k=stop_after: next(n) >= k)
            save_checkpoint(tmp_path / str(stop_after), state, events_bytes=0)
            state = load_checkpoint(tmp_path / str(stop_after)).state
            assert len(state.pending) == stop_after
            state, _ = fed.run_round(state)
        assert state.shared == end.shared
        assert state.server == end.server
        assert state.personal == end.personal


def test_a_refused_update_survives_a_checkpoint(federate, tmp_path):
    spoil = SPOILED["NaN"][0]
    fed = federate(lambda r: spoil(r) if r.client == 0 else r)
    whole, _ = fed.run_round(fed.start())
    asked = itertools.count()
    state, _ = fed.run_round(fed.start(), should_stop=lambda: next(asked) >= 1)
    save_checkpoint(tmp_path, state, events_bytes=0)
    state = load_checkpoint(tmp_path).state
    assert state.pending[0].failure.startswith("refused")
    state, replies = fed.run_round(state)
    assert state.shared == whole.shared
    assert [bool(r.failure) for r in replies] == [True, False, False]


@pytest.mark.parametrize(
    ("quorum", "merges"), [(0.0, True), (0.33, True), (1 / 3, True), (0.34, False), (0.67, False), (1.0, False)]
)
def test_below_the_quorum_nothing_is_merged_and_nothing_personal_is_lost(federate, quorum, merges):
    spoil = SPOILED["shape"][0]
    fed = federate(lambda r: r if r.client == 2 else spoil(r), quorum=quorum)
    start = fed.start()
    state, replies = fed.run_round(start)
    assert (state.shared == replies[2].update.shared) == merges
    assert (state.shared == start.shared) == (not merges)
    assert kept(state) == [0, 0, 1], "client 2 did train"
    assert state.round == 1


def test_a_quorum_is_not_missed_by_a_rounding_error(method):
    """0.07 * 100 is a little more than 7."""
    from promptfed.types import NO_PROMPT, Reply, Update, failed

    def worker(jobs):
        return [
            Reply(j.client, 1, Update(j.client, j.broadcast.shared * 2, 1, 0.0, 0.0), NO_PROMPT, 0.0)
            if j.client < 7
            else failed(j, "late")
            for j in jobs
        ]

    fed = Federation(method, Mean(Mean.Config()), LocalEngine(worker), range(100), quorum=0.07)
    state, _ = fed.run_round(fed.start())
    assert state.shared == fed.start().shared * 2


def test_clients_that_a_closed_round_left_out_are_late_and_lose_nothing(federate):
    fed = federate(round_seconds=1e-9)
    state, replies = fed.run_round(fed.start())
    assert {r.failure for r in replies[1:]} == {"late"}
    assert kept(state)[1:] == [0, 0]
    patient = federate(round_seconds=3600)
    state, replies = patient.run_round(patient.start())
    assert not any(r.failure for r in replies)


def test_side_by_side_gives_the_same_prompts_in_the_same_order(federate):
    alone = federate()
    expected, replies = alone.run_round(rounds(alone, alone.start(), 1))
    for client_batch in (2, 3, 8):
        fed, heard = federate(client_batch=client_batch), []
        state, found = fed.run_round(rounds(fed, fed.start(), 1), lambda reply, heard=heard: heard.append(reply.client))
        assert heard == [r.client for r in found] == [0, 1, 2]
        torch.testing.assert_close(state.shared["ctx"], expected.shared["ctx"], rtol=1e-5, atol=1e-5)
        assert [r.update.loss for r in found] == pytest.approx([r.update.loss for r in replies], rel=1e-4)
        assert [r.update.samples for r in found] == [r.update.samples for r in replies]


# ------------------------------------------------------------------------------------- attacks on a whole round


HUGE = {
    "1e38": lambda r: sends(r, filled(r.update.shared, 1e38)),
    "-1e38": lambda r: sends(r, filled(r.update.shared, -1e38)),
    "1e12": lambda r: sends(r, filled(r.update.shared, 1e12)),
    "one number of 1e30": lambda r: sends(
        r, r.update.shared.map(lambda t: torch.where(torch.arange(t.shape[1]) == 1, 1e30, t))
    ),
}


@pytest.mark.parametrize("how", HUGE)
@pytest.mark.parametrize("name", tuple(AGGREGATORS))
def test_a_huge_update_is_refused_counted_and_costs_nobody_else(federate, name, how):
    options = RULE_OPTIONS.get(name, {})
    fed = federate(lambda r: HUGE[how](r) if r.client == 1 else r, server=build_aggregator(name, options))
    honest = federate(
        lambda r: replace(r, failure="late") if r.client == 1 else r, server=build_aggregator(name, options)
    )
    state, expected, incidents = fed.start(), honest.start(), []
    for _ in range(2):
        state, replies = fed.run_round(state, on_incident=incidents.append)
        expected, _ = honest.run_round(expected)
        assert replies[1].failure.startswith("refused: client 1 sent a change ")
    assert state.shared == expected.shared
    assert state.server == expected.server
    assert kept(state) == [2, 0, 2]
    assert [(i.kind, i.client, i.round) for i in incidents] == [("refused", 1, 1), ("refused", 1, 2)]


@pytest.mark.parametrize("claim", [10**9, 10**6, 1000])
def test_a_claim_of_samples_is_bounded_by_what_the_client_has(federate, claim):
    def lie(reply):
        return sends(reply, reply.update.shared, samples=claim) if reply.client == 0 else reply

    honest, bounded = federate(), federate(lie, samples={0: 3, 1: 4, 2: 10})
    assert rounds(bounded, bounded.start(), 1).shared == rounds(honest, honest.start(), 1).shared
    incidents = []
    fed = federate(lie)
    state, replies = fed.run_round(fed.start(), on_incident=incidents.append)
    if claim > 2 * sum(reply.update.samples for reply in replies[1:]):
        assert [(i.kind, i.client) for i in incidents] == [("limited", 0)]
    assert state.shared.is_finite()


def test_a_client_that_is_alone_in_its_round_cannot_end_the_run(federate):
    """With part of the clients a round, one bad reply may be all there is."""
    fed = federate(lambda r: SPOILED["NaN"][0](r) if r.client == 1 else r, participation=0.34)
    state = rounds(fed, fed.start(), 12)
    assert state.round == 12
    assert kept(state)[1] == 0
    assert sum(kept(state)) > 0
