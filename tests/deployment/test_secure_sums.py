"""Secure sums over Flower: what the sites come to, what the server sees, and who is lost on the way."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")
pytest.importorskip("cryptography")

from promptfed.config import build_config
from promptfed.deployment import codec, messages
from promptfed.deployment.server import ServerOptions, checked, serve
from promptfed.deployment.site_store import SiteStore
from promptfed.deployment.site_sums import SiteSums, own_identity
from promptfed.deployment.sum_words import MASKED, WORDS, Sum, SumAnswer
from promptfed.errors import ConfigError, DeploymentError, SecureSumError, TrainingError
from promptfed.experiment import Experiment
from promptfed.privacy.channel_keys import identity_fingerprint
from promptfed.privacy.fixed_point import FixedPoint
from promptfed.privacy.release import PrivateMean, SumMean, clipped, flattened
from promptfed.privacy.secret_key import KEY_BYTES, SecretKey
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve

TERMS = {"secure_aggregation": True, "clip": 0.5}
KEY = SecretKey(bytes(range(KEY_BYTES)))
NOTED = {"Train": messages.TrainAnswer, "Sum": SumAnswer}


@pytest.fixture
def secure(simulate):
    """``secure(clients, **options)``: sites that sum their changes; ``sniffed`` has (leg, client) -> their answers."""

    def make(clients=3, **options):
        simulation = simulate(**{"clients": clients, "privacy_options": TERMS, **options})
        simulation.sniffed = defaultdict(list)
        for node in list(simulation.grid.nodes):
            intercept(simulation, node, lambda leg, question, answered: answered(question))
        return simulation

    return make


def intercept(simulation, node, act):
    """Have ``act(leg, question, answered)`` answer training (leg 'Train') and the legs of sums at ``node``."""
    answered = simulation.grid.nodes[node]

    def answer(content):
        kind = codec.kind_of(content)
        if kind not in NOTED:
            return answered(content)
        leg = codec.unpack(content, Sum).words.leg if kind == "Sum" else kind
        result = act(leg, content, answered)
        simulation.sniffed[leg, node // 100 - 1].append(result)
        return result

    simulation.grid.nodes[node] = answer


def one_round(simulation, state=None, release=None):
    release = release or SumMean(TERMS["clip"], simulation.engine.sums)
    federation = simulation.experiment.federation(engine=simulation.engine, release=release)
    incidents = []
    state, replies = federation.run_round(state or federation.start(), on_incident=incidents.append)
    return state, replies, incidents


def changes_of(small, clients, left_out=(), clip=TERMS["clip"]):
    """The prompt before round 1 and the clipped changes of the local engine's clients."""
    federation = Experiment.build(
        resolve(build_config({**small, "clients": clients, "aggregator": "uniform"}))
    ).federation()
    state = federation.start()
    _, replies = federation.run_round(state)
    names = sorted(state.shared)
    start = flattened(state.shared, names)
    changes = [
        clipped(flattened(reply.update.shared, names) - start, clip)
        for reply in replies
        if reply.client not in left_out
    ]
    return start, changes


def values(state):
    return flattened(state.shared, sorted(state.shared))


def files_of(simulation, client=0):
    folder = simulation.folder / f"site-{client}" / simulation.agreement.run / "promptfl"
    return sorted(path.name for path in folder.glob("sum*"))


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
        for leg in ("keys", "shares", "unmask"):
            assert [len(answer["arrays"]) for answer in simulation.sniffed[leg, client]] == [0]
        [masked] = simulation.sniffed["masked", client]
        seen = codec.unpack(masked, SumAnswer).parts[MASKED][WORDS].numpy().astype(np.int64)
        for other in steps:
            assert (np.abs(seen - other) < 2).mean() < 0.1, "masked words are near nobody's change"
    assert any("secure sum of round 1 over 3 of 3 sites" in line for line in simulation.said)
    assert files_of(simulation) == ["summed"], "state and change are gone"
    again, _, incidents = one_round(simulation, state)
    assert incidents == []
    assert (values(again) - values(state)).norm() > 1e-4


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
        if leg in ("Train", "unmask"):
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


def simulation_site(simulation, client):
    from promptfed.deployment.site import Site

    return Site(simulation.options(client)).answer


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


@pytest.mark.parametrize("leg", ["Train", "keys", "shares", "masked", "unmask"])
def test_a_site_that_is_lost_in_a_leg_costs_its_part_alone(leg, secure, small):
    simulation = secure(clients=4)
    lost = [] if leg == "unmask" else [2]

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
    simulation, broken = secure(), [True]

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
    assert files_of(simulation) == ["summed"], "the newer round wiped what was left"


# ------------------------------------------------------------------------------------------- who does not keep to it


def test_values_are_sent_once_in_a_round_whatever_the_server_repeats(secure):
    simulation = secure()
    federation_start = simulation.experiment.federation().start()
    state, _, _ = one_round(simulation)
    again, _, [incident] = one_round(simulation)
    assert again.shared == federation_start.shared
    assert "ends in the leg of 'keys'" in incident.why
    assert any("values are sent once in a round, and those of round 1 were" in line for line in simulation.said)
    after, _, incidents = one_round(simulation, state)
    assert incidents == []
    assert after.round == 2


def test_another_prompt_for_one_site_is_detected(secure):
    """A server that sends one site its own prompt, to see its change beside zeros of the others, gets no sum."""
    simulation = secure()

    def eludes(leg, question, answered):
        if leg == "Train":
            parcel = codec.unpack(question, messages.Train)
            question = codec.pack(parcel.words, shared=1.01 * parcel.part("shared"))
        return answered(question)

    intercept(simulation, 200, eludes)
    _, _, [incident] = one_round(simulation)
    assert "leaves the shared prompt as it was" in incident.why
    assert any("is lost in the leg of 'keys'" in line and "with the same broadcast" in line for line in simulation.said)
    assert not [key for key in simulation.sniffed if key[0] == "masked"]


def test_an_update_in_clear_is_refused_by_the_server(secure):
    simulation = secure(clients=4)

    def shows(leg, question, answered):
        answer = answered(question)
        if leg != "Train":
            return answer
        parcel = codec.unpack(answer, messages.TrainAnswer)
        return codec.pack(parcel.words, shared=codec.unpack(question, messages.Train).part("shared"))

    intercept(simulation, 300, shows)
    _, replies, _ = one_round(simulation)
    assert replies[2].failure.startswith("refused: client 2 sent names ['ctx'] instead of []")


def test_a_server_that_changes_cohort_or_identities_is_refused(secure):
    simulation = secure(clients=4)
    run = simulation.agreement.run

    def grows(leg, question, answered):
        if leg == "shares":
            words = codec.unpack(question, Sum).words
            question = codec.pack(words.model_copy(update={"cohort": (0, 1, 2)}))
        return answered(question)

    intercept(simulation, 100, grows)
    one_round(simulation)
    assert any("changed the cohort of a sum that has begun" in line for line in simulation.said)

    federation = simulation.experiment.federation(engine=simulation.engine)
    state = federation.start()
    others = (*simulation.agreement.identities[1:], simulation.agreement.identities[0])
    for identities, why in ((others, "other identities"), ((), "0 identities of 4 sites")):
        agreement = simulation.agreement.model_copy(update={"identities": identities})
        work = messages.Train(agreement=agreement, stage="promptfl", client=0, round=9, start=0)
        with pytest.raises(DeploymentError, match=why):
            codec.unpack(simulation_site(simulation, 0)(codec.pack(work, shared=state.shared)), messages.TrainAnswer)
    assert run == simulation.agreement.run


def test_identities_are_shown_at_the_site_and_agreed_on(secure, capsys):
    simulation = secure()
    shown = capsys.readouterr().out
    own = own_identity(SiteStore(simulation.folder / "site-1", simulation.agreement.run)).public
    assert simulation.agreement.identities[1] == own.hex()
    assert len(set(simulation.agreement.identities)) == 3
    assert f"identity of this site: {identity_fingerprint(own)}" in shown
    one_round(simulation)
    lines = capsys.readouterr().out.splitlines()
    name = simulation.agreement.sites[1].name
    assert lines.count(f"identity of {name}: {identity_fingerprint(own)}") == 3, (
        "each site says whom it believes to meet"
    )


def test_a_question_out_of_turn_or_for_another_client_gets_nothing(secure):
    simulation = secure()
    store = SiteStore(simulation.folder / "site-0", simulation.agreement.run)
    asked = Sum(run=simulation.agreement.run, stage="promptfl", client=0, round=1, leg="unmask", cohort=(0, 1, 2))
    with pytest.raises(SecureSumError, match="holds no change"):
        SiteSums(store, "promptfl").answer(asked)
    jobs = messages.Train(agreement=simulation.agreement, stage="promptfl", client=0, round=1, start=0)
    shared = simulation.experiment.federation().start().shared
    codec.unpack(simulation.grid.nodes[100](codec.pack(jobs, shared=shared)), messages.TrainAnswer)
    for change, why in (
        ({}, "nothing for the leg of 'unmask'"),
        ({"client": 1}, "client 1's change"),
        ({"round": 2}, "change of round 2"),
        ({"leg": "keys", "cohort": (0, 1)}, "3 clients or more"),
        ({"leg": "keys", "cohort": (0, 1, 7)}, "no identity here"),
        ({"leg": "keys", "cohort": (1, 2, 3)}, "not of this cohort|no identity"),
    ):
        with pytest.raises(SecureSumError, match=why):
            SiteSums(store, "promptfl").answer(asked.model_copy(update=change))


def test_a_damaged_answer_costs_its_site_alone(secure):
    simulation = secure(clients=4)

    def garbles(leg, question, answered):
        answer = answered(question)
        if leg != "masked":
            return answer
        words = codec.unpack(answer, SumAnswer).words
        return codec.pack(words, masked=PromptState({WORDS: torch.zeros(3, dtype=torch.int32)}))

    intercept(simulation, 300, garbles)
    _, _, incidents = one_round(simulation)
    assert incidents == []
    assert any("is lost in the leg of 'masked'" in line for line in simulation.said)


def test_processors_and_missing_sites_are_refused_before_the_run(small, secure):
    options = {**small, "privacy_options": TERMS}
    checked(build_config(options))
    with pytest.raises(ConfigError, match="leave out processors"):
        checked(build_config({**options, "processors": ["clip"]}))
    simulation = secure()
    answer = simulation.sites.answers[simulation.agreement.sites[0].name]
    from promptfed.deployment.server import _identities

    simulation.sites.answers[answer.site.name] = answer.model_copy(update={"identity": ""})
    with pytest.raises(DeploymentError, match="is not here with its identity"):
        _identities(simulation.agreement.sites, simulation.sites)


def test_no_word_of_a_sum_holds_a_secret(secure):
    """Seeds, private keys and the change itself stay at the site: what is sent is not what its state file holds."""
    simulation, secrets, sent = secure(), set(), []

    def look(leg, question, answered):
        answer = answered(question)
        path = simulation.folder / "site-0" / simulation.agreement.run / "promptfl" / "sum.json"
        if path.exists() and (member := json.loads(path.read_text()).get("member")):
            secrets.update(each for each in json.loads(member)["secrets"] if each)
        sent.append(str(answer["about"]["json"]))
        return answer

    intercept(simulation, 100, look)
    one_round(simulation)
    assert len(secrets) == 3
    assert not [secret for secret in secrets for text in sent if secret in text]


def test_a_site_that_wants_secure_sums_refuses_a_run_without_them(simulate, secure):
    from promptfed.deployment.site import Site, SiteOptions

    simulation, plain = secure(), simulate()
    words = {"state-dir": str(simulation.folder / "x"), "partition-id": 0, "secure-sums": True}
    site = Site(SiteOptions.of(words)).answer
    assert codec.kind_of(site(codec.pack(simulation.sites.hello))) == "HelloAnswer"
    with pytest.raises(DeploymentError, match=r"secure-sums.*set privacy.secure_aggregation=true"):
        codec.unpack(site(codec.pack(plain.sites.hello)), messages.HelloAnswer)


def test_a_whole_run_is_served_and_says_what_it_promises(secure, tmp_path):
    simulation = secure(clients=4, baselines=["zero_shot"], rounds=2)
    options = {"run-dir": str(tmp_path / "run"), "wait-seconds": 5, "poll-seconds": 0.01, "patience-seconds": 0.2}
    done = serve(simulation.grid, ServerOptions.model_validate({**options, "min-sites": 4}), simulation.config)
    assert len(done.bundles) == 4
    assert done.metrics["privacy"][1].startswith("secure aggregation: the server can compute the sum")
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert any("unless operators compared the fingerprints" in line for line in promise["not_covered"])
    assert not any("simulates" in line for line in promise["not_covered"])
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    trained = [event for event in events if event["event"] == "client" and event["stage"] == "promptfl"]
    assert len(trained) == 8
    assert all(event["loss"] is None and not event["failure"] for event in trained)
    assert [event for event in events if event["event"] == "incident"] == []
