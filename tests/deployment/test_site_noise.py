"""Single examples are protected by sites: the local engine's bits, keys and accounts that stay, and what they allow."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

pytest.importorskip("flwr")

from promptfed.config import build_config
from promptfed.deployment import codec, messages
from promptfed.deployment.server import checked
from promptfed.deployment.site import Site, SiteOptions
from promptfed.deployment.site_account import SiteAccount
from promptfed.deployment.site_noise import SiteLimit, SiteNoise, with_agreed_noise
from promptfed.deployment.site_store import SiteStore
from promptfed.deployment.site_task import NOTHING
from promptfed.deployment.site_training import SiteTraining
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError, DeploymentError, TrainingError
from promptfed.experiment import Experiment
from promptfed.files.atomic import write_bytes
from promptfed.privacy.accountant import Release, epsilon
from promptfed.privacy.dpsgd import DPSGD
from promptfed.privacy.secret_key import KEY_BYTES, KEY_FILE, SecretKey
from promptfed.resolve import resolve
from promptfed.types import NO_PROMPT, Broadcast, Job

TERMS = {"dp": "example", "noise": 1.5, "delta": 1e-3, "clip": 5.0, "clip_space": "features"}
FULL = {"n_ctx": 2, "local_epochs": 1, "batch_size": "all"}
"""Every example in the one step of a round: the accountant's exact case, which is fast."""
KEY = SecretKey(bytes(range(KEY_BYTES)))


@pytest.fixture
def protected(simulate):
    """``protected(**options)``: sites that protect their examples."""
    return lambda **options: simulate(**{"privacy_options": TERMS, "method_options": FULL, **options})


def one_round(simulation, state=None):
    federation = simulation.experiment.federation(engine=simulation.engine)
    return federation.run_round(state or federation.start())


def folder_of(simulation, client=0):
    return simulation.folder / f"site-{client}"


def give_key(simulation, client=0, key=KEY):
    """The key of the local engine, as a site that has released nothing would have made its own."""
    SiteAccount({}).save(folder_of(simulation, client))
    write_bytes(folder_of(simulation, client) / simulation.agreement.run / KEY_FILE, key.reveal(), 0o600)


def asked(simulation, client=0, state=None):
    """The question for the work of ``client`` after ``state``."""
    federation = simulation.experiment.federation(engine=simulation.engine)
    state = state or federation.start()
    job = Job(
        client, Broadcast(state.round + 1, federation.broadcast(state, client)), state.personal[client], "promptfl"
    )
    return simulation.engine._question(job)


def answered(simulation, question, client=0, **limits):
    """The answer of a new process of the site."""
    words = {"state-dir": str(folder_of(simulation, client)), "partition-id": client, **limits}
    return codec.unpack(Site(SiteOptions.of(words)).answer(question), messages.TrainAnswer)


def releases(simulation, client=0):
    return SiteAccount.load(folder_of(simulation, client)).releases


def cost(rounds, delta=1e-3):
    return epsilon([Release(1.5, 1.0, rounds)], delta)


# ------------------------------------------------------------------------------------------------ what it comes to


@pytest.mark.parametrize("method", [{}, {"method": "dpfpl", "method_options": {**FULL, "residual": "constant"}}])
def test_with_the_same_key_the_prompt_is_the_local_engine_s(protected, small, method):
    simulation = protected(**method)
    for client in range(3):
        give_key(simulation, client)
    state, _ = one_round(simulation)
    state, replies = one_round(simulation, state)

    options = {"privacy_options": TERMS, "method_options": FULL, **method}
    experiment = Experiment.build(resolve(build_config({**small, **options})))
    federation = experiment.federation(private_training=DPSGD(KEY, 5.0, 1.5, "features", experiment.config.method))
    expected = federation.start()
    for _ in range(2):
        expected, _ = federation.run_round(expected)
    assert state.shared.sha256() == expected.shared.sha256()
    assert [reply.failure for reply in replies] == ["", "", ""]
    assert [reply.epsilon for reply in replies] == [pytest.approx(cost(2))] * 3


def test_neither_a_key_nor_what_has_no_noise_goes_over_the_wire(protected, small):
    simulation, sniffed = protected(), []
    well = dict(simulation.grid.nodes)

    def sniffs(node):
        def answer(content):
            sniffed.append(well[node](content))
            return sniffed[-1]

        return answer

    simulation.grid.nodes = {node: sniffs(node) for node in well}
    state, _ = one_round(simulation)
    keys = [folder_of(simulation, client) / simulation.agreement.run / KEY_FILE for client in range(3)]
    assert len({path.read_bytes() for path in keys}) == 3, "each site has a key of its own"
    assert {oct(path.stat().st_mode & 0o777) for path in keys} == {"0o600"}
    on_the_wire = b"".join(repr(message).encode() for message in [*sniffed, *(m.content for m in simulation.grid.seen)])
    for secret in (path.read_bytes() for path in keys):
        assert secret.hex().encode() not in on_the_wire
        assert secret not in b"".join(array.data for message in sniffed for array in message["arrays"].values())

    plain = Experiment.build(resolve(build_config({**small, "method_options": FULL})))
    before = plain.federation().start()
    _, replies = plain.federation().run_round(before)
    for client, message in enumerate(sniffed):
        answer = codec.unpack(message, messages.TrainAnswer)
        assert (answer.words.loss, answer.words.accuracy, answer.words.is_protected) == (None, None, True)
        assert set(answer.parts) == {"shared"}
        true = replies[client].update.shared - before.shared
        assert ((answer.part("shared") - before.shared) - true).norm() > 0.5 * true.norm()
    assert state.shared.is_finite()


def test_what_a_site_says_of_its_work_does_not_depend_on_its_secret_batches(protected):
    """The numbers of examples in a step would be a release of their own, without noise."""
    usages = set()
    options = {"shots": 2, "method_options": {**FULL, "batch_size": 2}}
    for secret in (bytes(KEY_BYTES), bytes([7] * KEY_BYTES)):
        simulation = protected(**options)
        give_key(simulation, 0, SecretKey(secret))
        words = answered(simulation, asked(simulation)).words
        usages.add((words.usage.model_dump_json(), words.samples))
    assert len(usages) == 1


# --------------------------------------------------------------------------------------- crashes and what they cost


class Killed(BaseException):
    """As if the process had ended here: nothing catches it."""


def killed_at(monkeypatch, simulation, question, kind, name):
    """A process of site 0 that is killed when it is about to call ``kind.name``."""

    def dies(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kind, name, dies)
        with pytest.raises(Killed):
            answered(simulation, question)


@pytest.mark.parametrize(("kind", "name"), [(SiteAccount, "save"), (ClientWorker, "__call__"), (SiteNoise, "keep")])
def test_a_site_killed_before_it_sends_makes_one_release_of_the_same_bits(protected, monkeypatch, kind, name):
    simulation = protected()
    give_key(simulation)
    question = asked(simulation)
    shutil.copytree(folder_of(simulation), simulation.folder / "copy")
    killed_at(monkeypatch, simulation, question, kind, name)
    assert len(releases(simulation)) == (0 if name == "save" else 1)
    again = answered(simulation, question)
    assert len(releases(simulation)) == 1
    shutil.rmtree(folder_of(simulation))
    (simulation.folder / "copy").rename(folder_of(simulation))
    undisturbed = answered(simulation, question)
    assert again.part("shared") == undisturbed.part("shared")
    assert again.words.epsilon == undisturbed.words.epsilon == pytest.approx(cost(1))


def test_a_question_that_comes_again_is_answered_from_the_disk(protected, monkeypatch):
    simulation = protected()
    question = asked(simulation)
    first = answered(simulation, question)
    monkeypatch.setattr(ClientWorker, "__call__", None)  # nothing is trained, and no noise made, again
    again = answered(simulation, question)
    assert again.part("shared") == first.part("shared")
    assert again.words == first.words
    assert len(releases(simulation)) == 1


def test_after_a_crash_the_run_goes_on_and_spends_no_more_than_it_may(protected, monkeypatch):
    simulation = protected(privacy_options={**TERMS, "epsilon": 1.0005 * cost(2)})
    killed_at(monkeypatch, simulation, asked(simulation), SiteNoise, "keep")
    state, _ = one_round(simulation)
    state, replies = one_round(simulation, state)
    assert [reply.failure for reply in replies] == ["", "", ""]
    with pytest.raises(
        TrainingError, match=r"would bring this site to epsilon .* and the run may spend .*privacy.epsil"
    ):
        one_round(simulation, state)
    for client in range(3):
        assert [release.round for release in releases(simulation, client)] == [1, 2]


def test_another_prompt_in_the_same_round_is_another_release_and_costs_more(protected):
    simulation = protected()
    question = asked(simulation)
    answered(simulation, question)
    parcel = codec.unpack(question, messages.Train)
    other = codec.pack(parcel.words, shared=1.01 * parcel.part("shared"))
    words = answered(simulation, other).words
    assert len(releases(simulation)) == 2
    assert words.epsilon == pytest.approx(epsilon([Release(1.5 / 2**0.5, 1.0, 1)], 1e-3))


def test_an_answer_that_is_no_longer_there_is_released_again_at_its_price(protected):
    simulation = protected()
    question = asked(simulation)
    first = answered(simulation, question)
    state, _ = one_round(simulation)
    answered(simulation, asked(simulation, state=state))
    for path in folder_of(simulation).glob("*/promptfl/sent-*"):
        path.unlink()
    again = answered(simulation, question)
    assert again.part("shared") == first.part("shared"), "here the same noise all the same"
    assert [release.round for release in releases(simulation)] == [1, 2, 1]


# ------------------------------------------------------------------------------------------- what a site refuses


def test_a_site_refuses_what_its_operator_does_not_allow_and_nothing_is_released(protected):
    simulation = protected()
    with pytest.raises(DeploymentError, match=r"operator allows 0\.5 for all runs together \(max-epsilon in its node-"):
        answered(simulation, asked(simulation), **{"max-epsilon": 0.5})
    assert releases(simulation) == ()
    prepare = codec.pack(messages.Prepare.create(agreement=simulation.agreement, client=0))
    with pytest.raises(DeploymentError, match="max-epsilon") as refused:
        answered(simulation, prepare, **{"max-epsilon": 0.5})
    assert "\n" not in str(refused.value)


def test_the_limit_of_an_operator_is_for_all_runs_together(protected, capsys):
    simulation = protected()
    limits = {"max-epsilon": 1.0005 * cost(2, 1e-5)}
    answered(simulation, asked(simulation), **limits)
    other = simulation.agreement.model_copy(update={"run": "1" * 32})
    parcel = codec.unpack(asked(simulation), messages.Train)
    for run, round in (("1" * 32, 1), ("2" * 32, 1)):
        agreement = other.model_copy(update={"run": run})
        work = parcel.words.model_copy(update={"agreement": agreement, "round": round})
        question = codec.pack(work, shared=parcel.part("shared"))
        if run == "1" * 32:
            assert answered(simulation, question, **limits).words.epsilon == pytest.approx(cost(1))
            continue
        with pytest.raises(DeploymentError, match=r"for all runs together .* of which .* is spent"):
            answered(simulation, question, **limits)
    assert len(releases(simulation)) == 2
    keys = {(folder_of(simulation) / run / KEY_FILE).read_bytes() for run in (simulation.agreement.run, "1" * 32)}
    assert len(keys) == 2, "the same batches in two runs would cost more"


def test_a_server_that_changes_the_terms_of_a_run_is_refused(protected):
    simulation = protected()
    question = asked(simulation)
    answered(simulation, question)
    parcel = codec.unpack(question, messages.Train)
    terms = {**parcel.words.agreement.config, "privacy_options": {**TERMS, "clip": 50.0}}
    work = parcel.words.model_copy(
        update={"agreement": parcel.words.agreement.model_copy(update={"config": terms}), "round": 2}
    )
    with pytest.raises(DeploymentError, match="changed the terms of a run that has begun"):
        answered(simulation, codec.pack(work, shared=parcel.part("shared")))
    assert len(releases(simulation)) == 1


def test_a_site_with_a_limit_takes_part_in_no_run_without_noise(simulate):
    simulation = simulate()
    with pytest.raises(DeploymentError, match=r"no noise: set privacy\.dp=example"):
        answered(simulation, asked(simulation), **{"max-epsilon": 4})
    with pytest.raises(ConfigError, match="secure-sums and max-epsilon"):
        SiteOptions.of({"state-dir": "/s", "partition-id": 0, "secure-sums": True, "max-epsilon": 4})


def test_an_account_or_a_key_that_is_lost_is_an_error_and_no_new_beginning(protected):
    simulation = protected()
    question, state = asked(simulation), one_round(simulation)[0]
    later = asked(simulation, state=state)
    account, key = folder_of(simulation) / "releases.json", folder_of(simulation) / simulation.agreement.run / KEY_FILE
    content = account.read_bytes()
    account.unlink()
    with pytest.raises(DeploymentError, match=r"releases\.json is gone, so what this site has spent is not known"):
        answered(simulation, later)
    account.write_bytes(content.replace(b'"round": 1', b'"round": 2'))
    with pytest.raises(DeploymentError, match=r"cannot use .*releases\.json"):
        answered(simulation, later)
    account.write_bytes(content)
    key.unlink()
    with pytest.raises(DeploymentError, match=r"cannot go on without its privacy\.key"):
        answered(simulation, later)
    write_bytes(key, bytes(KEY_BYTES), 0o600)
    with pytest.raises(DeploymentError, match=r"privacy\.key of this run is not the key of its releases"):
        answered(simulation, question)


def test_a_baseline_without_noise_is_trained_at_no_site(simulate):
    options = {"privacy_options": TERMS, "method_options": FULL}
    with pytest.raises(ConfigError, match="trains no baseline, which has no noise: say --baselines zero_shot"):
        simulate(**options, baselines=["local_only"])
    assert checked(build_config({"data": "icons:codicons", "clients": 3, **options})).baselines == ("zero_shot",)


def test_zero_shot_shows_nothing_of_training_images_where_there_are_no_others(protected):
    simulation = protected(baselines=["zero_shot"])
    experiment, method = simulation.experiment, simulation.experiment.method("zero_shot")
    bare = tuple(replace(data, val=NOTHING) for data in experiment.task.clients)
    experiment = replace(experiment, task=replace(experiment.task, clients=bare))
    store = SiteStore(folder_of(simulation), simulation.agreement.run)
    work = messages.Train(agreement=simulation.agreement, stage="zero_shot", client=0, round=1, start=0)
    with pytest.raises(DeploymentError, match="figures of zero_shot are of training images and have no noise"):
        SiteTraining(experiment, method, store, SiteLimit()).answer(work, method.init_shared(), NO_PROMPT)


# ------------------------------------------------------------------------------------------------- what is agreed


def test_the_noise_of_an_epsilon_is_agreed_on_before_the_first_round(protected):
    simulation = protected(privacy_options={**TERMS, "noise": None, "epsilon": 4.0}, rounds=2)
    experiment, agreement = with_agreed_noise(simulation.experiment, simulation.agreement)
    noise = agreement.config["privacy_options"]["noise"]
    assert experiment.privacy.noise == noise
    assert epsilon([Release(noise, 1.0, 2)], 1e-3) == pytest.approx(4.0, rel=2e-3)
    assert json.loads(agreement.model_dump_json())["config"]["privacy_options"]["epsilon"] == 4.0
    with pytest.raises(DeploymentError, match="the server names no noise"):
        answered(simulation, asked(simulation))
    simulation.engine.agreement = agreement
    assert answered(simulation, asked(simulation)).words.epsilon < 4.0
