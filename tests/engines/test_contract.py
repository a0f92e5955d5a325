"""What must hold for every engine. The engines are listed in conftest.py."""

from __future__ import annotations

import time

import pytest

from promptfed.aggregators.mean import Mean
from promptfed.engines.base import LATE
from promptfed.engines.local import LocalEngine
from promptfed.errors import BudgetExhausted
from promptfed.federation import Federation
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def reference(place):
    """``reference(stage, clients)``: the plain loop, one client after the other, in this process."""

    def make(stage="well"):
        worker = place.worker(stage)
        engine, server = LocalEngine(worker), Mean(Mean.Config())
        return Federation(worker.method, server, engine, range(3), 1.0, 0.5, stage=stage, processors=worker.processors)

    return make


def rounds(federation, state, count):
    for _ in range(count):
        state, _ = federation.run_round(state)
    return state


def same(one, other, exact=True):
    if exact:
        return one == other
    return (one - other).norm() <= 1e-6 * one.norm()


@pytest.fixture
def exact(request):
    """Clients that are trained side by side round differently."""
    return "local_batched" not in request.node.callspec.id


def saved(folder, state):
    save_checkpoint(folder, state, events_bytes=0)
    [file] = folder.glob(f"round-{state.round:04d}/state.safetensors")
    return file.read_bytes()


def test_the_same_seed_gives_the_same_prompts(federation, reference, exact, tmp_path):
    ours, plain = federation(), reference()
    state, wanted = rounds(ours, ours.start(), 3), rounds(plain, plain.start(), 3)
    assert same(wanted.shared, state.shared, exact)
    if exact:
        assert saved(tmp_path / "ours", state) == saved(tmp_path / "plain", wanted)


def test_replies_are_in_client_order_and_told_of_as_they_come(federation):
    ours, heard = federation("slow:0"), []
    _, replies = ours.run_round(ours.start(), heard.append)
    assert [reply.client for reply in replies] == [0, 1, 2]
    assert sorted(heard, key=lambda reply: reply.client) == list(replies)
    assert not any(reply.failure for reply in replies)


@pytest.mark.parametrize("mood", ["raises", "bug", "nan", "shape", "names"])
def test_a_client_at_fault_costs_its_own_update_and_no_more(federation, reference, exact, mood):
    ours, plain = federation(f"{mood}:1"), reference(f"{mood}:1")
    state, replies = ours.run_round(ours.start())
    wanted, _ = plain.run_round(plain.start())
    assert [bool(reply.failure) for reply in replies] == [False, True, False]
    assert replies[1].failure.startswith("error" if mood in ("raises", "bug") else "refused")
    assert same(wanted.shared, state.shared, exact)
    assert state.personal[1] == ours.start().personal[1]
    assert state.personal[2]["rounds"].item() == 1


@pytest.mark.slow
def test_a_client_that_hangs_costs_its_own_update_and_no_more(federation, reference, exact):
    ours, plain = federation("hangs:1"), reference("raises:1")
    began = time.monotonic()
    state, replies = ours.run_round(ours.start())
    assert time.monotonic() - began < 60
    assert [reply.failure for reply in replies] == ["", LATE, ""]
    assert same(plain.run_round(plain.start())[0].shared, state.shared, exact)
    assert state.personal[1] == ours.start().personal[1]


def test_personal_prompts_stay_with_their_owners(federation):
    ours = federation()
    state = rounds(ours, ours.start(), 3)
    for client, personal in state.personal.items():
        assert personal["owner"].item() == client
        assert personal["rounds"].item() == 3


def test_a_round_that_was_cut_short_ends_with_the_same_bytes(federation, reference, exact, tmp_path):
    ours, plain = federation(), reference()
    state = rounds(ours, ours.start(), 1)
    heard = []
    state, _ = ours.run_round(state, heard.append, lambda: bool(heard))
    assert state.round == 1
    assert 1 <= len(state.pending) < 3
    save_checkpoint(tmp_path / "cut", state, events_bytes=0)
    state = load_checkpoint(tmp_path / "cut").state
    state, wanted = rounds(ours, state, 2), rounds(plain, plain.start(), 3)
    assert same(wanted.shared, state.shared, exact)
    if exact:
        assert saved(tmp_path / "ours", state) == saved(tmp_path / "plain", wanted)


def test_when_nothing_may_begin_nothing_is_done(federation):
    ours = federation()
    state, replies = ours.run_round(ours.start(), should_stop=lambda: True)
    assert (state.round, state.pending, replies) == (0, (), ())


def test_a_budget_that_is_used_up_is_nobodys_fault(federation, request):
    if "flower" in request.node.callspec.id:
        pytest.skip("sites ask no black box")
    ours = federation("spent:1")
    with pytest.raises(BudgetExhausted, match="nothing is left"):
        ours.run_round(ours.start())
    again = federation()
    assert again.run_round(again.start())[0].round == 1, "the engine is as good as before"


def test_the_bytes_that_crossed_are_told_if_any_did(federation):
    ours = federation()
    state = ours.start()
    _, replies = ours.run_round(state)
    for reply in replies:
        assert reply.bytes_up is None or reply.bytes_up >= reply.update.shared.nbytes
        assert reply.bytes_down is None or reply.bytes_down >= state.shared.nbytes


def test_processors_act_the_same_and_their_bytes_are_counted(federation, reference, exact, request):
    """Clip, int8 and error feedback: the same prompts, residuals and figures as in the plain loop."""
    ours, plain = federation("processed"), reference("processed")
    state, wanted = ours.start(), plain.start()
    for round in range(3):
        before = state
        state, replies = ours.run_round(state)
        wanted, expected = plain.run_round(wanted)
        figures = [(r.client, dict(r.processor_figures)["clip.clipped"]) for r in replies]
        assert figures == [(r.client, r.processor_figures["clip.clipped"]) for r in expected]
        for reply in replies:
            change = reply.update.shared - before.shared
            assert change.norm() <= 0.05 * (1.01 if round == 0 else 1.1), (
                "rounding, and later the residual, come on top"
            )
            assert reply.bytes_up is not None
            if "flower" not in request.node.callspec.id:  # whose messages are longer than this prompt
                assert reply.bytes_up < before.shared.nbytes
    assert (state.shared - wanted.shared).norm() <= (0 if exact else 1e-3) * wanted.shared.norm()
    for client, personal in state.personal.items():
        assert personal["processor.quantize.ctx"].abs().max() > 0
        assert not exact or personal == wanted.personal[client]
        assert set(ours.prompt(state, client).personal) == {"owner", "rounds"}


def test_residuals_survive_a_round_that_was_cut_short(federation, reference, exact, tmp_path):
    ours, plain = federation("processed"), reference("processed")
    state, heard = rounds(ours, ours.start(), 1), []
    state, _ = ours.run_round(state, heard.append, lambda: bool(heard))
    save_checkpoint(tmp_path / "cut", state, events_bytes=0)
    state = load_checkpoint(tmp_path / "cut").state
    assert all(dict(reply.processor_figures) for reply in state.pending)
    state, wanted = rounds(ours, state, 2), rounds(plain, plain.start(), 3)
    if exact:
        assert saved(tmp_path / "ours", state) == saved(tmp_path / "plain", wanted)
