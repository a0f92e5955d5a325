"""Processors over Flower: the messages are shorter, the prompts those of the local engine, residuals stay at sites."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from promptfed.config import build_config
from promptfed.deployment.engine import BARE_VERSION
from promptfed.deployment.evaluator import SiteEvaluator
from promptfed.evaluation import LocalEvaluator
from promptfed.experiment import Experiment
from promptfed.resolve import resolve
from promptfed.runs.personal_store import PersonalStore

CHAIN = [{"clip": {"max_norm": 0.5}}, {"quantize": {"format": "int8", "error_feedback": True}}]


def after_two_rounds(federation):
    state = federation.start()
    for _ in range(2):
        state, replies = federation.run_round(state)
    return state, replies


def test_the_same_prompts_with_fewer_bytes_on_the_wire(simulate, small):
    simulation, plain = simulate(processors=CHAIN), simulate()
    federation = simulation.experiment.federation(engine=simulation.engine)
    state, replies = after_two_rounds(federation)
    experiment = Experiment.build(resolve(build_config({**small, "processors": CHAIN})))
    reference = experiment.federation()
    expected, local_replies = after_two_rounds(reference)
    assert state.shared.sha256() == expected.shared.sha256()
    assert [r.processor_figures for r in replies] == [r.processor_figures for r in local_replies]

    arrays = [m.content["arrays"] for m in simulation.grid.seen if m.metadata.message_type == "train.promptfed"]
    values = state.shared["ctx"].numel()
    _, whole = after_two_rounds(plain.experiment.federation(engine=plain.engine))
    for one, other in zip(replies, whole, strict=True):
        assert other.bytes_up - one.bytes_up > 3 * values - 700, "int8 is a quarter, and there is an array of scales"
    assert arrays

    assert all(set(personal) == {BARE_VERSION} for personal in state.personal.values()), "no residual at the server"
    for client in range(3):
        store = PersonalStore(simulation.folder / f"site-{client}" / simulation.agreement.run / "promptfl")
        assert store.read(client, 2).to_bytes() == expected.personal[client].to_bytes()
    found = SiteEvaluator(simulation.sites, simulation.agreement).evaluate(federation, state)
    assert found == LocalEvaluator(experiment.task).evaluate(reference, expected)
    judges = [m for m in simulation.grid.seen if m.metadata.message_type == "evaluate.promptfed"]
    assert len([m for m in judges if '"whole": true' in str(m.content["about"]["json"])]) <= 1, "one shared prompt"
