"""A Ray whose CPUs others hold: the engine says what it waits for, and a stop ends the wait."""

from __future__ import annotations

import time

import pytest

from promptfed.aggregators.mean import Mean
from promptfed.federation import Federation

pytestmark = pytest.mark.slow


def test_cpus_that_others_hold_are_said(ray_session, ray_engine, place, caplog, monkeypatch):
    engine = ray_engine(place)

    class Holder:
        """An actor of somebody else, which keeps all CPUs."""

        def ready(self):
            return True

    cpus = int(ray_session.cluster_resources()["CPU"])
    holder = ray_session.remote(Holder).options(num_cpus=cpus).remote()
    assert ray_session.get(holder.ready.remote())
    monkeypatch.setattr("promptfed.engines.ray.PATIENCE_SECONDS", 0.5)
    ends = time.monotonic() + 20
    federation = Federation(place.method("well"), Mean(Mean.Config()), engine, range(3), stage="well")

    def stop():
        return "waiting for" in caplog.text or time.monotonic() > ends

    _, replies = federation.run_round(federation.start(), should_stop=stop)
    ray_session.kill(holder)
    assert not replies
    assert f"CPUs each; Ray has 0 of {cpus} CPUs free" in caplog.text
