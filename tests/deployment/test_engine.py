"""FlowerEngine on a grid in this process: the same prompts as the local engine, whatever goes wrong on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("flwr")

from promptfed.config import build_config
from promptfed.deployment import codec, messages
from promptfed.deployment.engine import start_of
from promptfed.deployment.evaluator import SiteEvaluator
from promptfed.deployment.site_pool import SiteReply
from promptfed.errors import DeploymentError
from promptfed.evaluation import LocalEvaluator
from promptfed.experiment import Experiment
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve
from promptfed.runs.personal_store import PERSONAL_VERSION, PersonalStore
from promptfed.types import Broadcast, Job


@pytest.fixture
def local(small):
    """``local(rounds, **options)``: the federation and its state after so many rounds in this process."""

    def run(rounds, **options):
        experiment = Experiment.build(resolve(build_config({**small, **options})))
        federation = experiment.federation()
        state = federation.start()
        for _ in range(rounds):
            state, _ = federation.run_round(state)
        return experiment, federation, state

    return run


def rounds_of(simulation, state=None, rounds=3):
    federation = simulation.experiment.federation(engine=simulation.engine)
    state = state or federation.start()
    history = []
    while state.round < rounds:
        state, replies = federation.run_round(state)
        history.append((state, replies))
    return federation, history


METHODS = ["promptfl", "fedper", "pfedmoap", "fedpha"]
MORE = {"fedper": {"n_ctx": 6, "local_epochs": 1}, "fedpha": {"n_ctx": 2, "local_lengths": "1,4", "local_epochs": 1}}


@pytest.mark.parametrize("method", METHODS)
def test_prompts_and_figures_are_those_of_the_local_engine(method, simulate, local):
    options = {"method": method, **({"method_options": MORE[method]} if method in MORE else {})}
    simulation = simulate(**options)
    federation, history = rounds_of(simulation)
    experiment, reference, expected = local(3, **options)
    state = history[-1][0]
    assert state.shared.sha256() == expected.shared.sha256()
    found = SiteEvaluator(simulation.sites, simulation.agreement).evaluate(federation, state)
    wanted = LocalEvaluator(experiment.task).evaluate(reference, expected)
    assert found == wanted
    validated = SiteEvaluator(simulation.sites, simulation.agreement).validate(federation, state)
    assert validated == LocalEvaluator(experiment.task).validate(reference, expected)


def test_measures_are_those_of_the_local_engine(simulate, local):
    options = {"measures": "macro_f1,nll,ece"}
    simulation = simulate(**options)
    federation, history = rounds_of(simulation, rounds=1)
    experiment, reference, expected = local(1, **options)
    measures = experiment.measures
    wanted = LocalEvaluator(experiment.task, measures).evaluate(reference, expected)
    found = SiteEvaluator(simulation.sites, simulation.agreement, measures=measures).evaluate(
        federation, history[-1][0]
    )
    assert set(found.figures.measures) == {"macro_f1", "nll", "ece"}
    for name, figures in found.figures.measures.items():
        assert figures == pytest.approx(wanted.figures.measures[name], rel=1e-4), "scored in other batches"
    assert replace(found.figures, measures={}) == replace(wanted.figures, measures={})
    with pytest.raises(DeploymentError, match="no site with test examples"):
        SiteEvaluator(simulation.sites, simulation.agreement).evaluate(federation, history[-1][0])
    assert any("figures of measure 'macro_f1', which is none of the run's" in line for line in simulation.said)


def test_personal_prompts_stay_at_their_sites(simulate, local):
    simulation = simulate(method="fedper", method_options={"n_ctx": 6, "local_epochs": 1})
    _, history = rounds_of(simulation)
    state, replies = history[-1]
    assert all(set(personal) == {PERSONAL_VERSION} for personal in state.personal.values())
    assert all(set(reply.personal) == {PERSONAL_VERSION} for reply in replies)
    for message in simulation.grid.seen:
        assert not [name for name in message.content["arrays"] if "private" in name]
    expected = local(3, method="fedper", method_options={"n_ctx": 6, "local_epochs": 1})[2]
    for client in range(3):
        store = PersonalStore(simulation.folder / f"site-{client}" / simulation.agreement.run / "fedper")
        assert store.read(client, 3).to_bytes() == expected.personal[client].to_bytes()


def test_replies_come_in_client_order_with_what_crossed_and_how_long_the_start_took(simulate):
    simulation = simulate()
    _, [(_state, replies), *_] = rounds_of(simulation, rounds=1)
    assert [reply.client for reply in replies] == [0, 1, 2]
    for reply in replies:
        assert reply.bytes_down > reply.update.shared.nbytes
        assert reply.bytes_up > reply.update.shared.nbytes
        assert reply.start_seconds >= 0
        assert reply.seconds > 0
    assert {m.metadata.group_id for m in simulation.grid.seen if m.metadata.message_type == "train.promptfed"} == {"1"}


def jobs_of(simulation):
    federation = simulation.experiment.federation(engine=simulation.engine)
    state = federation.start()
    return [Job(c, Broadcast(1, state.shared), state.personal[c], federation.stage) for c in range(3)]


def test_a_site_that_raises_costs_its_own_update(simulate):
    simulation = simulate()
    well = simulation.grid.nodes[200]

    def raises(content):
        if codec.kind_of(content) == "Train":
            raise MemoryError("no more memory")
        return well(content)

    simulation.grid.nodes[200] = raises
    replies = simulation.engine.run_round(jobs_of(simulation))
    assert [reply.failure for reply in replies] == ["", "error: MemoryError: no more memory", ""]
    assert sum("failed and is asked again: MemoryError" in line for line in simulation.said) == 2


def test_a_process_that_fails_once_is_asked_again(simulate):
    simulation, left = simulate(), [True]
    well = simulation.grid.nodes[200]

    def raises(content):
        if codec.kind_of(content) == "Train" and left:
            left.clear()
            raise OSError("the disk is busy")
        return well(content)

    simulation.grid.nodes[200] = raises
    assert [reply.failure for reply in simulation.engine.run_round(jobs_of(simulation))] == ["", "", ""]


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (lambda w: codec.RecordDict({}), "records"),
        (lambda w: codec.pack(w.model_copy(update={"client": 0}), shared=PromptState()), "client 0's"),
        (lambda w: codec.pack(w.model_copy(update={"round": 7}), shared=PromptState()), "round 7"),
        (lambda w: codec.pack(w.model_copy(update={"kept": 9}), shared=PromptState()), "round 9"),
        (lambda w: codec.pack(w), "'shared'"),
    ],
)
def test_garbage_costs_its_own_update(simulate, lie, why):
    simulation = simulate()
    well = simulation.grid.nodes[200]

    def lies(content):
        answer = well(content)
        if codec.kind_of(content) != "Train":
            return answer
        return lie(codec.unpack(answer, messages.TrainAnswer).words)

    simulation.grid.nodes[200] = lies
    replies = simulation.engine.run_round(jobs_of(simulation))
    assert [bool(reply.failure) for reply in replies] == [False, True, False]
    assert why in replies[1].failure
    assert replies[1].bytes_down > 0


def test_a_prompt_of_another_shape_is_refused_by_the_federation(simulate):
    simulation = simulate()
    well = simulation.grid.nodes[200]

    def lies(content):
        answer = well(content)
        if codec.kind_of(content) != "Train":
            return answer
        words = codec.unpack(answer, messages.TrainAnswer).words
        return codec.pack(words, shared=PromptState({"ctx": torch.full((2, 3), float("nan"))}))

    simulation.grid.nodes[200] = lies
    _, [(_state, replies)] = rounds_of(simulation, rounds=1)
    assert replies[1].failure.startswith("refused: client 1")


def test_who_does_not_answer_in_time_is_late(simulate):
    simulation = simulate()
    simulation.grid.lost.add(200)
    heard = []
    replies = simulation.engine.run_round(jobs_of(simulation), heard.append, seconds=2.0)
    assert [reply.failure for reply in replies] == ["", "late", ""]
    assert sorted(reply.client for reply in heard) == [0, 1, 2]


def test_who_takes_longer_than_a_client_may_is_late(simulate):
    simulation = simulate()
    simulation.grid.lost.add(200)
    simulation.engine.client_seconds = 2.0
    replies = simulation.engine.run_round(jobs_of(simulation))
    assert [reply.failure for reply in replies] == ["", "late", ""]
    assert replies[1].bytes_down > 1000, "it was asked"


def test_after_a_stop_the_replies_so_far_are_returned(simulate):
    simulation, heard = simulate(), []
    jobs = jobs_of(simulation)
    replies = simulation.engine.run_round(jobs, heard.append, should_stop=lambda: bool(heard))
    assert [reply.client for reply in replies] == [2], "the grid hands out one at a time, the last one first"
    assert simulation.engine.run_round(jobs, should_stop=lambda: True) == []


def test_a_site_that_is_away_is_waited_for_once_and_the_run_goes_on(simulate):
    simulation = simulate()
    del simulation.grid.nodes[200]
    jobs = jobs_of(simulation)
    assert [r.failure for r in simulation.engine.run_round(jobs)] == ["", "absent: not connected", ""]
    assert any("away for" in line for line in simulation.said)
    simulation.start_site(1, node=201)
    assert [r.failure for r in simulation.engine.run_round(jobs)] == ["", "", ""]


def test_a_round_does_not_begin_without_enough_sites(simulate):
    simulation = simulate()
    simulation.engine.min_sites = 2
    del simulation.grid.nodes[100], simulation.grid.nodes[300]
    with pytest.raises(DeploymentError, match="only 1 of the 2 sites"):
        simulation.engine.run_round(jobs_of(simulation))


@pytest.mark.parametrize("method", ["promptfl", "fedper"])
def test_a_site_killed_at_work_and_restarted_changes_nothing(method, simulate, local):
    """It goes while it has a question; the same site is back under another node and is asked again."""
    options = {"method": method, "method_options": {"n_ctx": 6, "local_epochs": 1}}
    simulation = simulate(**options)
    well = simulation.grid.nodes.pop(200)
    simulation.sites.patience = 5
    trained = 0

    def dies(content):
        nonlocal trained
        trained += codec.kind_of(content) == "Train"
        if codec.kind_of(content) == "Train" and trained == 2:
            simulation.grid.lost.add(200)
            simulation.start_site(1, node=999)
            del simulation.grid.nodes[200]
        return well(content)

    simulation.grid.nodes[200] = dies
    simulation.grid.nodes = {n: simulation.grid.nodes[n] for n in (200, 100, 300)}
    _, history = rounds_of(simulation)
    assert not [r.failure for _, replies in history for r in replies if r.failure]
    assert trained == 2
    assert history[-1][0].shared.sha256() == local(3, **options)[2].shared.sha256()


def test_going_back_to_an_older_checkpoint_continues_as_the_first_time(simulate, local):
    options = {"method": "fedper", "method_options": {"n_ctx": 6, "local_epochs": 1}}
    simulation = simulate(**options)
    _, history = rounds_of(simulation)
    for client in range(3):  # every site is a new process too
        simulation.start_site(client)
    _, again = rounds_of(simulation, history[0][0])
    assert again[-1][0].shared.sha256() == history[-1][0].shared.sha256() == local(3, **options)[2].shared.sha256()


def test_a_lost_state_directory_is_said_in_one_line_and_costs_one_update(simulate, tmp_path):
    simulation = simulate(method="fedper", method_options={"n_ctx": 6, "local_epochs": 1})
    _, history = rounds_of(simulation, rounds=2)
    (simulation.folder / "site-1").rename(tmp_path / "elsewhere")
    simulation.start_site(1)
    federation = simulation.experiment.federation(engine=simulation.engine)
    after, replies = federation.run_round(history[-1][0])
    assert [bool(r.failure) for r in replies] == [False, True, False]
    assert "personal prompt of round 2 is not in" in replies[1].failure
    assert start_of(after.personal[1]) == 2, "its ticket is as it was"
    (simulation.folder / "site-1").exists()
    for path in (tmp_path / "elsewhere").iterdir():
        target = simulation.folder / "site-1" / path.name
        if target.exists():
            target.rename(tmp_path / "set aside")
        path.rename(target)
    _, replies = federation.run_round(after)
    assert not [r.failure for r in replies if r.failure], "back from the backup"


def test_old_versions_are_forgotten(simulate):
    simulation = simulate(method="fedper", method_options={"n_ctx": 6, "local_epochs": 1}, rounds=12)
    rounds_of(simulation, rounds=12)
    store = PersonalStore(simulation.folder / "site-0" / simulation.agreement.run / "fedper")
    assert store.rounds(0) == list(range(3, 13)), "12, the 11 it started from, and eight before"


def test_every_site_writes_its_own_bundle(simulate, local):
    from promptfed.export.bundle import read_bundle

    simulation = simulate(method="fedper", method_options={"n_ctx": 6, "local_epochs": 1})
    federation, history = rounds_of(simulation)
    found = SiteEvaluator(simulation.sites, simulation.agreement).finish(federation, history[-1][0])
    expected = local(3, method="fedper", method_options={"n_ctx": 6, "local_epochs": 1})[2]
    for client, where in found.items():
        bundle = read_bundle(simulation.folder / f"site-{client}" / simulation.agreement.run / "prompt")
        assert str(simulation.folder / f"site-{client}") in where
        assert bundle.personal.to_bytes() == expected.personal[client].to_bytes()
        assert bundle.shared.to_bytes() == expected.shared.to_bytes()


def test_the_server_cannot_ask_for_another_client_or_another_stage(simulate):
    simulation = simulate()
    [question] = [m.content for m in simulation.grid.seen if m.metadata.message_type == "query.promptfed"][:1]
    assert codec.kind_of(question) == "Hello"
    job = jobs_of(simulation)[0]
    for change in ({"client": 1}, {"stage": "local_only"}, {"stage": "../x"}):
        words = messages.Train(agreement=simulation.agreement, stage="promptfl", client=0, round=1, start=0)
        content = codec.pack(words.model_copy(update=change), shared=job.broadcast.shared)
        with pytest.raises(DeploymentError, match="the server asks for"):
            codec.unpack(simulation.grid.nodes[100](content), messages.TrainAnswer)


UNFIT = [
    ({"other": torch.zeros(2, 128)}, "without 'ctx'"),
    ({}, "without 'ctx'"),
    ({"ctx": torch.zeros(3, 128)}, "(3, 128), not"),
    ({"ctx": torch.zeros(2, 128, dtype=torch.int64)}, "int64"),
    ({"ctx": torch.full((2, 128), float("nan"))}, "not finite"),
]


def test_a_prompt_of_the_server_that_does_not_fit_is_refused_by_the_site(simulate):
    simulation = simulate()
    for kind, more in ((messages.Train, {}), (messages.Evaluate, {"part": "test"}), (messages.Finish, {})):
        for tensors, why in UNFIT:
            question = kind(agreement=simulation.agreement, stage="promptfl", client=0, round=1, start=0, **more)
            content = codec.pack(question, shared=PromptState(tensors))
            with pytest.raises(DeploymentError) as refused:
                codec.unpack(simulation.grid.nodes[100](content), messages.TrainAnswer)
            assert why in str(refused.value)
            assert "the site's log" not in str(refused.value)


@pytest.mark.parametrize("numbers", [2, 20_000_000])
def test_an_update_longer_than_its_method_sends_is_refused_before_it_is_decoded(simulate, monkeypatch, numbers):
    simulation, decoded = simulate(), []
    well, tensor = simulation.grid.nodes[200], codec._tensor
    monkeypatch.setattr(codec, "_tensor", lambda name, array: (decoded.append(len(array.data)), tensor(name, array))[1])

    def lies(content):
        answer = well(content)
        if codec.kind_of(content) != "Train":
            return answer
        words = codec.unpack(answer, messages.TrainAnswer).words
        return codec.pack(words, shared=PromptState({"ctx": torch.zeros(numbers)}))

    simulation.grid.nodes[200] = lies
    _, [(state, replies)] = rounds_of(simulation, rounds=1)
    assert [bool(reply.failure) for reply in replies] == [False, True, False]
    assert state.round == 1
    if numbers > 1000:
        most = 16 * state.shared["ctx"].numel() + 1_000_000
        assert f"a message holds 80,000,128 bytes of arrays; {most:,} are the most" in replies[1].failure
        assert max(decoded) < 1_000_000
    else:
        assert replies[1].failure.startswith("refused: client 1 sent 'ctx' is (2,)")


def test_a_site_that_claims_more_samples_than_it_has_gains_nothing(simulate):
    """The count of its first message, or of the task that all deal out alike, is the most that is believed."""
    honest, lying = simulate(), simulate()
    well = lying.grid.nodes[200]

    def lies(content):
        answer = well(content)
        if codec.kind_of(content) != "Train":
            return answer
        envelope = codec.unpack(answer, messages.TrainAnswer)
        return codec.pack(envelope.words.model_copy(update={"samples": 10**9}), shared=envelope.part("shared"))

    lying.grid.nodes[200] = lies
    _, [(expected, _)] = rounds_of(honest, rounds=1)
    _, [(state, replies)] = rounds_of(lying, rounds=1)
    assert state.shared == expected.shared
    assert [reply.failure for reply in replies] == ["", "", ""]


def test_an_answer_without_a_prompt_may_hold_none(simulate):
    simulation = simulate()
    content = codec.pack(messages.PrepareAnswer(images=1, seconds=1.0), shared=PromptState({"ctx": torch.zeros(3)}))
    with pytest.raises(DeploymentError, match="holds 140 bytes of arrays; 0 are the most"):
        SiteReply(content, "", 0, 0).opened(messages.PrepareAnswer)
    assert simulation.sites.connected
