"""Secure sums over Flower: what a site and a server do with a party that does not keep to the protocol."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr")
pytest.importorskip("cryptography")

from promptfed.config import build_config
from promptfed.deployment import codec, messages
from promptfed.deployment.server import ServerOptions, checked, serve
from promptfed.deployment.site import Site, SiteOptions
from promptfed.deployment.site_identities import own_identity
from promptfed.deployment.site_store import SiteStore
from promptfed.deployment.site_sums import SiteSums
from promptfed.deployment.sum_words import WORDS, Sum, SumAnswer
from promptfed.errors import ConfigError, DeploymentError, SecureSumError
from promptfed.privacy.channel_keys import Identity, identity_fingerprint
from promptfed.prompt_state import PromptState

from .secure_sites import TERMS, intercept, one_round, secure_sites, simulation_site

HALF = {"survivors": (0, 1, 2), "lost": (3,)}


@pytest.fixture
def secure(simulate):
    """``secure(clients, **options)``: sites that sum their changes."""
    return partial(secure_sites, simulate)


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
    own = own_identity(simulation.folder / "site-1").public
    assert simulation.agreement.identities[1] == own.hex()
    assert len(set(simulation.agreement.identities)) == 3
    assert f"identity of this site: {identity_fingerprint(own)}" in shown
    one_round(simulation)
    lines = capsys.readouterr().out.splitlines()
    name = simulation.agreement.sites[1].name
    assert lines.count(f"identity of {name}: {identity_fingerprint(own)}") == 3, (
        "each site says whom it believes to meet"
    )


def test_a_server_that_shows_two_lists_of_survivors_gets_no_sum(secure):
    """It calls site 3 lost to two of four sites, and a survivor to the others: each list has two signatures."""
    simulation = secure(clients=4)

    def lies(leg, question, answered):
        if leg == "consent":
            words = codec.unpack(question, Sum).words
            message = words.message.model_copy(update={"content": {**words.message.content, **HALF}})
            question = codec.pack(words.model_copy(update={"message": message}))
        return answered(question)

    for node in (100, 200):
        intercept(simulation, node, lies)
    _, _, [incident] = one_round(simulation)
    assert "ends in the leg of 'consent': 2 of 4 clients are left, and it needs 3" in incident.why
    assert sum("did not sign the list of survivors that it was sent" in line for line in simulation.said) == 2
    assert not simulation.sniffed["unmask", 3]


def test_a_server_that_goes_on_without_enough_signatures_gets_no_share(secure):
    simulation = secure(clients=4)

    def strips(leg, question, answered):
        if leg == "unmask":
            words = codec.unpack(question, Sum).words
            signatures = dict(list(words.message.content["signatures"].items())[:2])
            message = words.message.model_copy(update={"content": {**words.message.content, "signatures": signatures}})
            question = codec.pack(words.model_copy(update={"message": message}))
        return answered(question)

    for node in (100, 200, 300, 400):
        intercept(simulation, node, strips)
    _, _, [incident] = one_round(simulation)
    assert "ends in the leg of 'unmask': 0 of 4 clients are left" in incident.why
    assert sum("2 clients signed the list of survivors" in line for line in simulation.said) == 4


def test_pinned_identities_need_no_trust_in_the_server(simulate, tmp_path):
    simulation, file = simulate(clients=3, privacy_options=TERMS), tmp_path / "pins"
    keys = [own_identity(simulation.folder / f"site-{client}").public for client in range(3)]
    names = [site.name for site in simulation.agreement.sites]
    assert [key.hex() for key in keys] == list(simulation.agreement.identities)

    def prepared(agreement):
        words = {"state-dir": str(simulation.folder / "site-0"), "partition-id": 0, "identities": str(file)}
        question = codec.pack(messages.Prepare(agreement=agreement, client=0))
        return codec.unpack(Site(SiteOptions.of(words)).answer(question), messages.PrepareAnswer)

    file.write_text("".join(f"{identity_fingerprint(keys[k])} {names[k]}\n" for k in (1, 2)))
    prepared(simulation.agreement)
    forged = (simulation.agreement.identities[0], Identity.new().public.hex(), simulation.agreement.identities[2])
    with pytest.raises(DeploymentError, match=rf"of {names[1]}, and .*pins {identity_fingerprint(keys[1])}: ask its"):
        prepared(simulation.agreement.model_copy(update={"identities": forged, "run": "f" * 32}))
    file.write_text(f"{identity_fingerprint(keys[1])} {names[1]}\n")
    with pytest.raises(DeploymentError, match=rf"pins no identity of {names[2]}"):
        prepared(simulation.agreement)


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


def test_after_the_last_leg_a_site_answers_that_very_question_and_no_other(secure):
    simulation, questions = secure(), []

    def note(leg, question, answered):
        questions.extend([question] if leg == "unmask" else [])
        return answered(question)

    intercept(simulation, 100, note)
    one_round(simulation)
    sums = SiteSums(SiteStore(simulation.folder / "site-0", simulation.agreement.run), "promptfl")
    [question] = (codec.unpack(each, Sum).words for each in questions)
    again, arrays = sums.answer(question)
    assert (again, arrays) == (codec.unpack(simulation.sniffed["unmask", 0][0], SumAnswer).words, {})
    for change in ({"message": None}, {"leg": "consent"}):
        with pytest.raises(SecureSumError, match="is done with the secure sum of round 1"):
            sums.answer(question.model_copy(update=change))


@pytest.mark.parametrize("step", [(SiteStore, "write"), (Path, "unlink")])
def test_a_site_that_is_killed_in_the_last_leg_still_has_its_answer(secure, monkeypatch, step):
    simulation, kills = secure(), []

    def dies(*args, **named):
        kills.append(step)
        raise KeyboardInterrupt

    def killed(leg, question, answered):
        if leg == "unmask":
            with monkeypatch.context() as patch:
                patch.setattr(*step, dies)
                with pytest.raises(KeyboardInterrupt):
                    answered(question)
        return simulation_site(simulation, 0)(question)

    intercept(simulation, 100, killed)
    _, _, incidents = one_round(simulation)
    assert (kills, incidents) == ([step], [])
    assert not any("is lost in the leg" in line for line in simulation.said)
    assert any("secure sum of round 1 over 3 of 3 sites" in line for line in simulation.said)


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
    assert any("unless operators compared or pinned fingerprints" in line for line in promise["not_covered"])
    assert not any("simulates" in line for line in promise["not_covered"])
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    trained = [event for event in events if event["event"] == "client" and event["stage"] == "promptfl"]
    assert len(trained) == 8
    assert all(event["loss"] is None and not event["failure"] for event in trained)
    assert [event for event in events if event["event"] == "incident"] == []
