"""Private runs from the options to privacy.json: what they promise, what they refuse, how they end and go on."""

from __future__ import annotations

import json
import shutil

import pytest

import promptfed as pf
from promptfed.config import build_config
from promptfed.errors import ConfigError, PromptFedError, RunError, TrainingError
from promptfed.experiment import Experiment
from promptfed.methods.promptfl import PromptFL
from promptfed.privacy.account import FILE, read_releases
from promptfed.privacy.accountant import Release as Spending
from promptfed.privacy.accountant import epsilon
from promptfed.privacy.secret_key import KEY_FILE
from promptfed.progress import Progress
from promptfed.resolve import resolve
from promptfed.runner import carry_out
from promptfed.runs.directory import RunDirectory
from promptfed.training import Interrupted, Training
from promptfed.warm_start import beginning_with, save_first_prompt

from .private_runs import check_resume, train_or_go_on

SMALL = {"data": "icons:codicons,elusive", "clients": 3, "shots": 1, "rounds": 3, "threads": 1, "baselines": (),
         "task_options": {"test_per_class": 2, "val_shots": 1},
         "method_options": {"n_ctx": 2, "local_epochs": 1}}  # fmt: skip
CLIENT = {"dp": "client", "noise": 2.0, "delta": 1e-3, "clip": 0.1}
SHARED_NOISE = {**CLIENT, "secure_aggregation": True, "noise_at": "clients"}


def config(**options):
    return resolve(build_config({**SMALL, **options}))


def trained(folder, stop_after=None, **options):
    return train_or_go_on(folder, lambda: config(**options), stop_after)


def test_a_run_says_what_it_promises(tmp_path):
    trained(tmp_path / "run", privacy_options=CLIENT)
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert promise["differential_privacy"] == "client"
    assert promise["epsilon"] == pytest.approx(2.629, abs=0.001)  # Gaussian, 3 releases of multiplier 2 at 1e-3
    assert promise["epsilon"] <= promise["epsilon_rdp"] <= 1.25 * promise["epsilon"]
    assert (promise["releases"], promise["denominator"], promise["clip"]) == (3, 3.0, 0.1)
    assert any("engine local simulates" in line for line in promise["not_covered"])
    metrics = pf.load_run(tmp_path / "run").metrics
    assert metrics["privacy"][0].startswith("privacy: epsilon 2.63 at delta 0.001 for one client's whole data")
    report = (tmp_path / "run" / "report.html").read_text() if (tmp_path / "run" / "report.html").exists() else ""
    assert not report or "noise multiplier" in report


def test_a_run_without_privacy_says_none(tmp_path):
    trained(tmp_path / "run", rounds=1)
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert (promise["differential_privacy"], promise["secure_aggregation"]) == ("none", "none")
    assert pf.load_run(tmp_path / "run").metrics["privacy"] == ["privacy: no differential privacy"]
    assert not (tmp_path / "run" / KEY_FILE).exists()
    assert read_releases(tmp_path / "run") == ()


def test_a_resumed_run_ends_with_the_same_bits_and_spends_no_more(tmp_path):
    check_resume(trained, tmp_path, CLIENT)


def test_a_run_that_stops_says_what_it_has_spent(tmp_path, monkeypatch):
    asked = iter(range(100))
    folder = RunDirectory.create(tmp_path / "run", config(privacy_options=CLIENT), label="")
    Experiment.build(folder.config).fill_features()  # which also asks whether to stop
    with pytest.raises(Interrupted):
        carry_out(folder, Progress(), lambda: next(asked) >= 4)
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert 1 <= promise["releases"] < 3
    assert promise["epsilon"] < 2.629
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_run_notes_that_noise_is_longer_than_its_signal():
    notes = Experiment.build(config(privacy_options=CLIENT)).notes
    assert any("times as long as its longest signal" in note and "privacy plan --clients 3" in note for note in notes)
    assert not any("longest signal" in note for note in Experiment.build(config()).notes)


def test_another_key_is_other_noise(tmp_path):
    one, other = (trained(tmp_path / name, rounds=1, privacy_options=CLIENT) for name in ("one", "other"))
    assert (one - other).norm() > 0.01, "the seed is the same"


def test_a_run_goes_on_with_its_own_key_and_account_alone(tmp_path):
    trained(tmp_path / "run", stop_after=4, privacy_options=CLIENT)
    for name, why in ((KEY_FILE, "cannot go on without its privacy.key"), (FILE, "lacks the release of round 1")):
        shutil.copytree(tmp_path / "run", tmp_path / name)
        (tmp_path / name / name).unlink()
        with pytest.raises(RunError, match=why):
            trained(tmp_path / name)
    key = bytearray((tmp_path / "run" / KEY_FILE).read_bytes())
    key[7] ^= 1
    (tmp_path / "run" / KEY_FILE).write_bytes(key)
    with pytest.raises(RunError, match="is not the key of the releases"):
        trained(tmp_path / "run")


def test_the_key_is_in_no_other_file(tmp_path):
    folder = tmp_path / "run"
    trained(folder, privacy_options=CLIENT)
    key = (folder / KEY_FILE).read_bytes()
    assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o600
    others = [path for path in folder.rglob("*") if path.is_file() and path.name != KEY_FILE]
    assert len(others) > 5
    for path in others:
        content = path.read_bytes()
        assert key not in content, path
        assert key.hex().encode() not in content.lower(), path


def test_a_run_ends_before_it_spends_more_than_it_may(tmp_path, caplog):
    trained(tmp_path / "run", rounds=5, privacy_options={**CLIENT, "epsilon": 2.5})
    assert len(read_releases(tmp_path / "run")) == 2  # three would cost 2.63
    run = pf.load_run(tmp_path / "run")
    assert run.round == 2
    assert json.loads((tmp_path / "run" / "privacy.json").read_text())["epsilon"] < 2.5
    assert "PromptFL ends after round 2 of 5: privacy.epsilon=2.5 is spent" in caplog.text


def test_epsilon_alone_chooses_the_noise():
    terms = config(rounds=20, privacy_options={"dp": "client", "epsilon": 8, "delta": 1e-3}).privacy_options
    assert terms["noise"] == pytest.approx(2.15, abs=0.01)
    assert resolve(config(rounds=20, privacy_options=terms)).privacy_options == terms


def test_without_noise_and_with_a_wide_clip_it_is_the_uniform_mean(tmp_path):
    wide = {"dp": "client", "noise": 0, "clip": 1e6, "delta": 1e-3}
    private = trained(tmp_path / "private", privacy_options=wide)
    plain = trained(tmp_path / "plain", aggregator="uniform")
    assert (private - plain).norm() < 1e-5
    metrics = pf.load_run(tmp_path / "private").metrics
    assert metrics["privacy"] == ["privacy: none, because no noise was added"]


def test_a_round_that_nobody_takes_part_in_is_released_too(tmp_path):
    options = {"participation": 0.05, "rounds": 6, "privacy_options": CLIENT}
    trained(tmp_path / "run", **options)
    assert len(read_releases(tmp_path / "run")) == 6
    rounds = [event for event in pf.load_run(tmp_path / "run").events if event["event"] == "round"]
    assert min(event["clients"] for event in rounds) == 0
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert promise["sampling"].startswith("Poisson with probability 0.05")
    assert promise["epsilon"] < 1.5, "amplified: 6 releases of all clients cost 5.3"


ADAPTIVE = {"dp": "client", "noise": 0.2, "delta": 1e-3, "clip": "adaptive", "clip_start": 0.05}


def test_an_adaptive_clip_goes_on_from_where_it_was(tmp_path):
    check_resume(trained, tmp_path, ADAPTIVE)
    releases = read_releases(tmp_path / "cut")
    assert [spent.clip for spent in releases] == [spent.clip for spent in read_releases(tmp_path / "whole")]
    assert releases[0].clip == pytest.approx(0.05)
    assert len({spent.clip for spent in releases}) == 3
    promise = json.loads((tmp_path / "cut" / "privacy.json").read_text())
    assert promise["clip_by_round"] == ", ".join(f"{spent.clip:.4g}" for spent in releases)
    assert (promise["clip"], promise["noise_multiplier"]) == ("adaptive", 0.2)
    assert promise["epsilon"] == pytest.approx(epsilon([Spending(0.2, 1.0, 3)], 1e-3)), "the pair spends z"


def test_a_run_says_what_it_began_with_and_did_beside(tmp_path):
    trained(tmp_path / "first", rounds=1)
    beside = {"baselines": ("local_only",), "attack_options": {"name": "ipm"}, "round_seconds": 600.0}
    begin, first = beginning_with(config(rounds=1, privacy_options=CLIENT, **beside), tmp_path / "first")
    run = RunDirectory.create(tmp_path / "run", begin, label="")
    save_first_prompt(run, first)
    Training(Experiment.build(run.config), run).execute()
    lines = "; ".join(json.loads((tmp_path / "run" / "privacy.json").read_text())["not_covered"])
    for what in ("began with (run first, round 1", "attack ipm", "baselines of the same run", "too late for a round"):
        assert what in lines


def test_drop_outs_keep_the_denominator(tmp_path):
    trained(tmp_path / "run", dropout=0.5, quorum=1.0, privacy_options=CLIENT)
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert promise["lost_updates"] > 0
    assert (promise["denominator"], promise["releases"]) == (3.0, 3)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"privacy_options": {"epsilon": 8}}, r"privacy\.epsilon and privacy\.noise need privacy\.dp"),
        ({"privacy_options": {"clip": 0.5}}, r"privacy\.clip and privacy\.delta protect nobody alone"),
        ({"dp": "client"}, r"write --set privacy\.dp=VALUE"),
        ({"privacy_options": {"dp": "client"}}, r"privacy\.dp=client needs privacy\.epsilon or privacy\.noise"),
        ({"privacy_options": {"dp": "gdp"}}, "input should be 'none', 'client' or 'example'"),
        ({"privacy_options": {**CLIENT, "delta": 0.4}}, r"delta 0\.4 does not protect 3 clients"),
        ({"privacy_options": {**CLIENT, "noise": 1e6}}, "too large or too small for its grid"),
        ({"privacy_options": {**CLIENT, "noise": 1e-10}}, "too large or too small for its grid"),
        ({"privacy_options": {**CLIENT, "clip": 1e-320}}, "too large or too small for its grid"),
        ({"privacy_options": {**CLIENT, "noise": None, "epsilon": 1e-9, "delta": 1e-5}}, "too large or too small"),
        ({"privacy_options": CLIENT, "aggregator": "median"}, "looks at every single update"),
        ({"privacy_options": CLIENT, "aggregator": "geometric_median"}, "looks at every single update"),
        ({"privacy_options": CLIENT, "method": "pfedmoap"}, "looks at every single update"),
        ({"privacy_options": CLIENT, "method": "local_only", "method_options": {}}, "sends nothing"),
        ({"privacy_options": CLIENT, "method": "zero_shot", "method_options": {}}, "trains nothing"),
        ({"privacy_options": CLIENT, "method": "feddpt", "task": "clip-domains", "data": "icons:styles",
          "clients": None,
          "method_options": {}}, "tensors that only some clients send"),
        ({"privacy_options": {**CLIENT, "clip": "adaptive"}}, "it takes more than 20 clients"),
        ({"privacy_options": {**CLIENT, "clip": "adaptive", "secure_aggregation": True}}, "is not built"),
        ({"privacy_options": {"secure_aggregation": True, "clip": "adaptive"}}, r"needs privacy\.dp=client"),
        ({"privacy_options": {**CLIENT, "dp": "example", "clip": "adaptive"}}, r"needs privacy\.dp=client"),
        ({"privacy_options": {**CLIENT, "clip_rate": 0.5}}, r"go with privacy\.clip=adaptive"),
        ({"privacy_options": CLIENT, "task": "blackbox-text", "data": "texts:requests", "method": "fedbdpl",
          "method_options": {}, "task_options": {}}, r"privacy\.dp=client"),
    ],
)  # fmt: skip
def test_what_cannot_be_promised_is_refused_before_the_run(options, why):
    with pytest.raises(ConfigError, match=why) as error:
        Experiment.build(config(**options))
    assert "\n" not in str(error.value)


def test_a_private_federation_does_not_train_outside_its_run():
    federation = Experiment.build(config(privacy_options=CLIENT)).federation()
    with pytest.raises(PromptFedError, match="inside its run alone"):
        federation.run_round(federation.start())


# ------------------------------------------------------------------------------------------------------ secure sums


def test_a_secure_run_ends_near_the_plain_mean_and_says_so(tmp_path):
    secure = trained(tmp_path / "secure", privacy_options={"secure_aggregation": True, "clip": 100.0})
    plain = trained(tmp_path / "plain", aggregator="uniform")
    assert 0 < (secure - plain).norm() < 1e-4
    metrics = pf.load_run(tmp_path / "secure").metrics
    assert metrics["privacy"][1].startswith("secure aggregation: the server can compute the sum")
    assert metrics["privacy"][1].endswith("(engine local simulates it)")
    promise = json.loads((tmp_path / "secure" / "privacy.json").read_text())
    assert promise["differential_privacy"] == "none"
    assert "add privacy.dp=client" in promise["not_covered"][0]
    assert "each client's loss" in promise["not_covered"][1]


def test_a_secure_run_counts_the_messages_of_its_sums_and_no_update(tmp_path):
    trained(tmp_path / "run", privacy_options={"secure_aggregation": True})
    run = pf.load_run(tmp_path / "run")
    clients = [event for event in run.events if event["event"] == "client" and event["stage"] == "promptfl"]
    sums = [event for event in run.events if event["event"] == "sum"]
    rounds = [event for event in run.events if event["event"] == "round" and event["stage"] == "promptfl"]
    values = 2 * 128
    assert {event["bytes_up"] for event in clients} == {0}
    assert [(event["round"], event["client"]) for event in sums] == [(r, c) for r in (1, 2, 3) for c in (0, 1, 2)]
    assert all(4 * values - 200 < event["bytes_up"] < 4 * values + 2_000 for event in sums)
    assert all(event["bytes_down"] > 500 for event in sums)
    assert [event["bytes_up"] for event in rounds] == [
        sum(event["bytes_up"] for event in sums if event["round"] == number) for number in (1, 2, 3)
    ]
    assert run.metrics["cost"]["bytes_up"] == sum(event["bytes_up"] for event in sums)
    assert run.metrics["cost"]["bytes_down"] == sum(event["bytes_down"] for event in [*clients, *sums])


def test_secure_sums_go_with_noise_and_lost_clients(tmp_path):
    terms = {**CLIENT, "secure_aggregation": True}
    trained(tmp_path / "run", dropout=0.3, clients=5, privacy_options=terms)
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert promise["trusts"].startswith("the server, which sees the exact sum of the changes")
    assert promise["releases"] == 3


def test_a_round_with_too_few_for_a_secure_sum_leaves_the_prompt(tmp_path):
    trained(tmp_path / "run", dropout=0.7, privacy_options={"secure_aggregation": True})
    incidents = [event for event in pf.load_run(tmp_path / "run").events if event["event"] == "incident"]
    assert incidents
    assert all(event["kind"] == "unmerged" for event in incidents)


@pytest.mark.parametrize("options", [{"clients": 2}, {"participation": 0.5}])
def test_a_secure_sum_of_two_is_refused(options):
    with pytest.raises(ConfigError, match="needs 3 clients in a round"):
        Experiment.build(config(privacy_options={"secure_aggregation": True}, **options))


def test_a_secure_sum_of_a_secret_cohort_is_refused_where_noise_is_promised():
    terms = {**CLIENT, "secure_aggregation": True}
    with pytest.raises(ConfigError, match="needs all clients in every round"):
        Experiment.build(config(clients=8, participation=0.5, privacy_options=terms))


def test_a_run_sums_ciphertexts_and_says_who_can_open_them(tmp_path):
    pytest.importorskip("tenseal", reason="needs pip install 'promptfed[he]'")
    encrypted = trained(tmp_path / "he", privacy_options={"secure_aggregation": "he", "clip": 100.0})
    plain = trained(tmp_path / "plain", aggregator="uniform")
    assert 0 < (encrypted - plain).norm() < 1e-4
    sums = [event for event in pf.load_run(tmp_path / "he").events if event["event"] == "sum"]
    assert len(sums) == 9
    assert all(event["bytes_up"] > 80_000 for event in sums)
    assert [event["bytes_down"] > 80_000 for event in sums[:3]] == [True, False, False], "one client decrypts"
    promise = json.loads((tmp_path / "he" / "privacy.json").read_text())
    assert promise["secure_aggregation"].startswith("the server can compute the ciphertext of the sum")
    assert any("works with one client" in line for line in promise["not_covered"])


def test_ciphertexts_are_for_engine_local_and_go_without_clients_noise():
    with pytest.raises(ConfigError, match="he is simulated on engine local alone, and this is 'ray'"):
        Experiment.build(config(privacy_options={"secure_aggregation": "he"}, engine="ray"))
    with pytest.raises(ConfigError, match="with he one client that helps the server"):
        config(privacy_options={**SHARED_NOISE, "secure_aggregation": "he"})


def test_clients_noise_needs_no_trust_in_the_server_and_a_run_says_so(tmp_path):
    trained(tmp_path / "run", dropout=0.1, clients=5, privacy_options=SHARED_NOISE)
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert promise["epsilon"] == pytest.approx(2.629, abs=0.001), "as of one server with all the noise"
    assert promise["trusts"].startswith("4 of the clients in each sum, who tell nobody their noise")
    assert promise["mechanism"].startswith("secure sum of clipped changes, each with its client's share")
    assert promise["secure_aggregation"].endswith("with the clients' noise, and nothing without it")
    assert (promise["honest_clients"], promise["releases"], promise["denominator"]) == (4, 3, 5.0)
    assert any("fewer than 4 honest clients" in line for line in promise["not_covered"])
    assert any("engine local simulates" in line for line in promise["not_covered"])
    assert "who tell nobody their noise" in pf.load_run(tmp_path / "run").metrics["privacy"][0]


def test_a_resumed_run_with_clients_noise_ends_with_the_same_bits_and_spends_no_more(tmp_path):
    check_resume(trained, tmp_path, SHARED_NOISE)


def test_a_run_with_clients_noise_notes_what_all_of_them_add(tmp_path):
    [note] = [note for note in Experiment.build(config(privacy_options=SHARED_NOISE)).notes if "longest signal" in note]
    served = Experiment.build(config(privacy_options={**CLIENT, "secure_aggregation": True})).notes
    assert note in served, "of three, all must be honest, so that they add what one server would"
    fewer = Experiment.build(config(privacy_options={**SHARED_NOISE, "honest": 1})).notes
    assert note not in fewer


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({**CLIENT, "noise_at": "clients"}, "needs privacy.dp=client and privacy.secure_aggregation=true"),
        ({"secure_aggregation": True, "noise_at": "clients"}, "needs privacy.dp=client"),
        ({**CLIENT, "secure_aggregation": True, "honest": 3}, "say privacy.noise_at=clients"),
        ({**SHARED_NOISE, "noise": 0.0}, "leaves clients nothing to add"),
        ({**SHARED_NOISE, "honest": 5}, r"privacy.honest=5 does not go with 5 clients, of whom 4 make a sum: 2 to 4"),
        ({**SHARED_NOISE, "honest": 1}, r"privacy.honest=1 does not go with 5 clients"),
        ({**SHARED_NOISE, "noise": 1e-5}, "privacy.noise_at=clients: shares of noise of .* are too small"),
        ({**SHARED_NOISE, "noise": 1e6}, "privacy.noise_at=clients: noise of .* lower privacy.noise"),
    ],
)
def test_noise_that_clients_cannot_add_is_refused_in_one_line(terms, why):
    with pytest.raises(ConfigError, match=why) as refusal:
        Experiment.build(config(clients=5, privacy_options=terms))
    assert len(str(refusal.value).splitlines()) == 1


def test_faults_of_clients_leave_a_private_round_its_secure_sum(tmp_path, monkeypatch):
    train_many = PromptFL.train_many

    def faulty(self, jobs):
        if any(data.client == 2 for _, data, _ in jobs):
            raise TrainingError("a fault in the data")
        return train_many(self, jobs)

    monkeypatch.setattr(PromptFL, "train_many", faulty)
    terms = {**CLIENT, "noise": 0.0, "clip": 1.0}
    secure = trained(tmp_path / "secure", rounds=1, privacy_options={**terms, "secure_aggregation": True})
    plain = trained(tmp_path / "plain", rounds=1, privacy_options=terms)
    assert (secure - plain).norm() < 1e-4
    assert (plain - pf.load_run(tmp_path / "plain").finished.method.init_shared()).norm() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("terms", [CLIENT, ADAPTIVE, SHARED_NOISE, {"secure_aggregation": True, "clip": 0.1}])
def test_ray_s_prompts_are_the_local_engine_s(tmp_path, terms):
    pytest.importorskip("ray")
    trained(tmp_path / "local", stop_after=0, privacy_options=terms)
    shutil.copytree(tmp_path / "local", tmp_path / "ray")
    local = trained(tmp_path / "local")
    run = pf.load_run(tmp_path / "ray").resume(engine="ray", actors=1, progress=False)
    difference = (run.prompt().shared - local).norm()
    assert difference < 1e-4 if "noise" not in terms else difference == 0
