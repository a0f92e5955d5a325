"""Privacy over Flower: the server's noise is that of the local engine."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from promptfed.config import build_config
from promptfed.experiment import Experiment
from promptfed.privacy.release import PrivateMean
from promptfed.privacy.secret_key import KEY_BYTES, SecretKey
from promptfed.resolve import resolve

PRIVATE = {"dp": "client", "noise": 1.5, "delta": 1e-3, "clip": 0.5}
KEY = SecretKey(bytes(range(KEY_BYTES)))


def after_two_rounds(experiment: Experiment, engine=None):
    spent = []
    release = PrivateMean(KEY, 0.5, 1.5, range(3), account=spent.append)
    federation = experiment.federation(engine=engine, release=release)
    state = federation.start()
    for _ in range(2):
        state, _ = federation.run_round(state)
    return state, spent


def test_the_same_prompt_and_the_same_releases_as_on_the_local_engine(simulate, small):
    simulation = simulate(privacy_options=PRIVATE)
    state, spent = after_two_rounds(simulation.experiment, simulation.engine)
    expected, expected_spent = after_two_rounds(
        Experiment.build(resolve(build_config({**small, "privacy_options": PRIVATE})))
    )
    assert state.shared.sha256() == expected.shared.sha256()
    assert spent == expected_spent
    assert len(spent) == 2
    on_the_wire = "".join(str(message.content) for message in simulation.grid.seen)
    assert KEY.reveal().hex() not in on_the_wire
