"""What is Ray's own: actors that die, late rounds, and who gets how much of a machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import time

import pytest

from promptfed.aggregators.mean import Mean
from promptfed.config import build_config
from promptfed.engines import ray_runtime
from promptfed.engines.base import LATE, never
from promptfed.engines.local import LocalEngine
from promptfed.engines.ray import RayEngine
from promptfed.engines.ray_runtime import Share
from promptfed.errors import BackboneError, ConfigError
from promptfed.federation import Federation

pytestmark = pytest.mark.slow  # Ray takes half a minute to begin


@pytest.fixture
def engine(ray_engine, place):
    found = ray_engine(place)
    found.client_seconds = None
    return found


@pytest.fixture
def federation(place, engine):
    def make(stage, engine=engine, seconds=None):
        return Federation(
            place.method(stage), Mean(Mean.Config()), engine, range(3), round_seconds=seconds, stage=stage
        )

    return make


def loaded(engine, federation):
    """Run rounds until two actors are there with all that they need."""
    deadline = time.monotonic() + 120
    while sum(federation.stage in seat.ready_for for seat in engine.seats) < 2:
        assert time.monotonic() < deadline
        federation.run_round(federation.start())


def test_an_actor_that_is_killed_in_mid_round_costs_nothing_but_time(federation, engine, place):
    ours, plain = federation("slow:0,1,2"), federation("well", LocalEngine(place.worker("well")))
    killed = []

    def kill_one():
        busy = [seat for seat in engine.seats if seat.task is not None]
        if busy and not killed:
            time.sleep(0.2)  # into its work
            os.kill(busy[0].pid, signal.SIGKILL)
            killed.append(busy[0].pid)
        return False

    state, replies = ours.run_round(ours.start(), should_stop=kill_one)
    assert killed
    assert [reply.failure for reply in replies] == ["", "", ""]
    wanted, _ = plain.run_round(plain.start())
    assert state.shared == wanted.shared
    assert dict(state.personal) == dict(wanted.personal)
    assert killed[0] not in [seat.pid for seat in engine.seats]


@pytest.mark.slow
def test_a_client_whose_work_kills_every_actor_fails_alone(federation, place):
    ours, plain = federation("dies:1"), federation("raises:1", LocalEngine(place.worker("raises:1")))
    state, replies = ours.run_round(ours.start())
    assert [reply.failure for reply in replies] == ["", "error: 3 actors died of its work", ""]
    assert state.shared == plain.run_round(plain.start())[0].shared


def test_replies_are_told_of_in_the_order_in_which_they_come(federation, engine):
    ours, heard = federation("slow:0"), []
    loaded(engine, ours)
    _, replies = ours.run_round(ours.start(), lambda reply: heard.append(reply.client))
    assert heard[-1] == 0
    assert [reply.client for reply in replies] == [0, 1, 2]


def test_who_is_at_work_when_the_round_closes_is_late_and_its_actor_goes_on_later(federation, engine):
    ours = federation("slow:0", seconds=0.4)
    loaded(engine, ours)
    before = [seat.pid for seat in engine.seats]
    _, replies = ours.run_round(ours.start())
    assert replies[0].failure == LATE
    well = federation("well")
    _, replies = well.run_round(well.start())
    assert not any(reply.failure for reply in replies)
    assert [seat.pid for seat in engine.seats] == before


def test_actors_say_whether_their_model_is_what_it_was(engine, federation, ray_session):
    ours = federation("well")
    ours.run_round(ours.start(), should_stop=never)

    def swapped(actor, told):
        backbone = actor._place.setup().backbone
        before, backbone._loaded_sha256 = backbone._loaded_sha256, told
        return before

    engine.verify_frozen()
    actor = next(seat.actor for seat in engine.seats if seat.awaits is None)  # one at work is not asked
    true = ray_session.get(actor.__ray_call__.remote(swapped, "another"))
    try:
        with pytest.raises(BackboneError, match="its frozen weights are not what was loaded"):
            engine.verify_frozen()
    finally:
        ray_session.get(actor.__ray_call__.remote(swapped, true))
    engine.verify_frozen()


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'promptfed\[ray\]'"):
        ray_runtime.begin(None)


@pytest.mark.parametrize(
    ("nodes", "actors", "threads", "on_gpu", "wanted"),
    [
        ([(2, 0)], None, 1, False, Share(2, 1, 0.0)),
        ([(2, 0)], None, 2, False, Share(1, 2, 0.0)),
        ([(2, 0)], None, 4, False, Share(1, 2, 0.0)),
        ([(8, 0)], 3, 4, False, Share(3, 2, 0.0)),
        ([(2, 0)], 4, 1, False, Share(4, 0, 0.0)),
        ([(8, 0), (8, 0)], 3, 8, False, Share(3, 4, 0.0)),
        ([(4, 0), (4, 0), (4, 0)], None, 3, False, Share(3, 3, 0.0)),
        ([(16, 2)], None, 4, True, Share(2, 4, 1.0)),
        ([(16, 1)], 3, 4, True, Share(3, 4, 0.3333)),
        ([(16, 2)], 3, 4, True, Share(3, 4, 0.5)),
    ],
)
def test_each_actor_gets_its_share_of_the_machines(nodes, actors, threads, on_gpu, wanted):
    assert Share.of(nodes, actors, threads, on_gpu) == wanted
    assert not wanted.cpus or sum(cpus // wanted.cpus for cpus, _ in nodes) >= wanted.actors, "all find a place"
    assert not wanted.gpus or sum(cards for _, cards in nodes) * int(1 / wanted.gpus) >= wanted.actors


def test_cards_are_dealt_out_by_ray():
    with pytest.raises(ConfigError, match=r"--device 'cuda:1' does not go with --engine ray.*: use --device cuda"):
        RayEngine.check(build_config({"engine": "ray", "device": "cuda:1"}))


def test_no_gpu_is_said_at_once():
    with pytest.raises(ConfigError, match="no GPU"):
        Share.of([(8, 0)], None, 1, on_gpu=True)
