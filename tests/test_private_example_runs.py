"""Runs that protect single examples, from the options to privacy.json: what they promise, refuse, how they go on."""

from __future__ import annotations

import json
import math
import shutil

import pytest

import promptfed as pf
from promptfed.config import build_config
from promptfed.engines.registry import ENGINES
from promptfed.errors import ConfigError, RunError, TrainingError
from promptfed.experiment import Experiment
from promptfed.export.origin import provenance
from promptfed.privacy.account import read_releases
from promptfed.privacy.accountant import Release, epsilon
from promptfed.privacy.secret_key import KEY_BYTES, KEY_FILE
from promptfed.resolve import resolve

from .private_runs import check_resume, train_or_go_on

SMALL = {"data": "icons:codicons,elusive", "clients": 3, "shots": 2, "rounds": 3, "threads": 1, "baselines": (),
         "task_options": {"test_per_class": 2, "val_shots": 1},
         "method_options": {"n_ctx": 2, "local_epochs": 1, "batch_size": 4}}  # fmt: skip
FULL = {**SMALL["method_options"], "batch_size": "all"}
"""Every example in the one step of a round: the accountant's exact case, which is fast."""
EXAMPLE = {"dp": "example", "noise": 1.5, "delta": 1e-3, "clip": 5.0, "clip_space": "features"}


def config(**options):
    return resolve(build_config({**SMALL, **options}))


def trained(folder, stop_after=None, **options):
    return train_or_go_on(folder, lambda: config(**options), stop_after)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run's folder; nobody writes to it."""
    folder = tmp_path_factory.mktemp("example") / "run"
    trained(folder, privacy_options=EXAMPLE)
    return folder


def test_a_run_says_what_it_promises_each_site(finished):
    promise = json.loads((finished / "privacy.json").read_text())
    assert (promise["differential_privacy"], promise["unit"]) == (
        "example",
        "one example of one client, added or removed",
    )
    assert 0 < promise["epsilon_smallest"] <= promise["epsilon"] < 20
    assert set(promise["epsilon_of_client"]) == {"0", "1", "2"}
    assert promise["sampling"].startswith("Poisson, each example in a step with probability 0.")
    assert (promise["rounds"], promise["noise_multiplier"], promise["clip_space"]) == (3, 1.5, "features")
    assert any("engine local simulates" in line for line in promise["not_covered"])
    [line] = pf.load_run(finished).metrics["privacy"]
    assert line.startswith(f"privacy: epsilon {promise['epsilon']:.2f} (")
    assert "trusts nobody outside the site" in line
    assert len(read_releases(finished)) == 3


def test_no_loss_or_accuracy_of_training_leaves_a_site(finished):
    events = pf.load_run(finished).events
    of_clients = [event for event in events if event["event"] == "client" and event["stage"] == "promptfl"]
    assert len(of_clients) == 9
    for event in of_clients:
        assert event["loss"] is None or math.isnan(event["loss"])
        assert event["accuracy"] is None or math.isnan(event["accuracy"])


def test_a_resumed_run_ends_with_the_same_bits_and_spends_no_more(tmp_path):
    check_resume(trained, tmp_path, EXAMPLE)


@pytest.mark.slow
def test_ray_goes_on_to_the_same_bits_with_the_key_of_the_run_s_folder(tmp_path):
    pytest.importorskip("ray")
    assert trained(tmp_path / "local", stop_after=4, privacy_options=EXAMPLE) is None
    shutil.copytree(tmp_path / "local", tmp_path / "ray")
    expected = trained(tmp_path / "local")
    run = pf.load_run(tmp_path / "ray").resume(engine="ray", actors=1, progress=False)
    assert run.prompt().shared == expected
    assert read_releases(tmp_path / "ray") == read_releases(tmp_path / "local")
    promise = json.loads((tmp_path / "ray" / "privacy.json").read_text())
    assert any("engine ray simulates" in line for line in promise["not_covered"])


def test_an_engine_that_cannot_add_the_noise_is_refused(monkeypatch):
    monkeypatch.setattr(ENGINES["ray"], "protects_examples", False)
    with pytest.raises(ConfigError, match="engine 'ray' does not train with noise for each example: use --engine loc"):
        Experiment.build(config(privacy_options=EXAMPLE, engine="ray"))


def test_what_is_tuned_after_the_run_says_that_it_has_no_noise(tmp_path):
    trained(tmp_path / "run", rounds=1, method_options=FULL, privacy_options=EXAMPLE)
    run = pf.load_run(tmp_path / "run")
    run.personalize(alphas=[1.0], epochs=1, progress=False)
    finished = pf.load_run(tmp_path / "run").finished
    assert "Not covered: the tuning on a client's own data" in provenance(finished.origin(0))
    assert "the tuning on" not in provenance(finished.origin(0, shared_only=True))


def test_another_key_is_other_noise(tmp_path):
    options = {"rounds": 1, "method_options": FULL, "privacy_options": EXAMPLE}
    one, other = (trained(tmp_path / name, **options) for name in ("one", "other"))
    assert (one - other).norm() > 0.01, "the seed is the same"


def test_a_run_goes_on_with_its_own_key_and_account_alone(tmp_path):
    trained(tmp_path / "run", stop_after=5, privacy_options=EXAMPLE)
    for name, why in ((KEY_FILE, "cannot go on without its privacy.key"), ("releases.json", "lacks the release of")):
        shutil.copytree(tmp_path / "run", tmp_path / name)
        (tmp_path / name / name).unlink()
        with pytest.raises(RunError, match=why):
            trained(tmp_path / name)
    (tmp_path / "run" / KEY_FILE).write_bytes(bytes(KEY_BYTES))
    with pytest.raises(RunError, match="is not the key of the releases"):
        trained(tmp_path / "run")


def test_a_run_ends_before_a_site_spends_more_than_it_may(tmp_path, caplog):
    limit = 1.001 * epsilon([Release(1.5, 1.0, 3)], 1e-3)
    trained(tmp_path / "run", rounds=5, method_options=FULL, privacy_options={**EXAMPLE, "epsilon": limit})
    assert pf.load_run(tmp_path / "run").round == 3
    assert json.loads((tmp_path / "run" / "privacy.json").read_text())["epsilon"] == pytest.approx(limit / 1.001)
    assert "PromptFL ends after round 3 of 5: privacy.epsilon=" in caplog.text


def test_epsilon_alone_chooses_the_noise(tmp_path):
    terms = {**EXAMPLE, "noise": None, "epsilon": 4.0}
    trained(tmp_path / "run", rounds=2, method_options=FULL, privacy_options=terms)
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert promise["epsilon"] == pytest.approx(4.0, rel=2e-3)
    assert promise["sampling"] == "every example in every step: no amplification is claimed"
    assert {spent.multiplier for spent in read_releases(tmp_path / "run")} == {promise["noise_multiplier"]}


def test_a_limit_that_allows_no_round_is_an_error(tmp_path):
    with pytest.raises(
        ConfigError, match=r"privacy\.noise=1\.5 spends more than privacy\.epsilon=0\.1 in the first round"
    ):
        trained(tmp_path / "run", method_options=FULL, privacy_options={**EXAMPLE, "epsilon": 0.1})


def test_dpfpl_protects_what_stays_at_the_client_too(tmp_path):
    options = {**SMALL["method_options"], "residual": "constant"}
    trained(tmp_path / "run", rounds=1, method="dpfpl", method_options=options, privacy_options=EXAMPLE)
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert "what stays at the client too" in promise["mechanism"]


def test_without_noise_it_promises_nothing(tmp_path):
    trained(tmp_path / "run", rounds=1, privacy_options={**EXAMPLE, "noise": 0})
    assert pf.load_run(tmp_path / "run").metrics["privacy"] == ["privacy: none, because no noise was added"]
    assert json.loads((tmp_path / "run" / "privacy.json").read_text())["epsilon"] is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"method": "fedper", "method_options": {}}, "a part of its prompt stays at the client"),
        ({"method": "fedclip", "method_options": {}}, "contrasts the images of a batch"),
        ({"method_options": {"label_space": "own"}}, "use method.label_space=all"),
        ({"privacy_options": {**EXAMPLE, "delta": 0.4}}, r"delta 0\.4 does not protect 18 examples"),
        ({"privacy_options": {**EXAMPLE, "dp": "client"}}, "goes with privacy.dp=example alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_promised_is_refused_before_the_run(options, why):
    with pytest.raises(ConfigError, match=why) as error:
        Experiment.build(config(**{"privacy_options": EXAMPLE, **options}))
    assert "\n" not in str(error.value)


def test_nothing_trains_without_noise_outside_the_run():
    federation = Experiment.build(config(privacy_options=EXAMPLE)).federation()
    with pytest.raises(TrainingError, match="trains inside its run alone"):
        federation.run_round(federation.start())
