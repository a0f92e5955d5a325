"""A bundle says whose prompt it is, where it comes from, and who has the same one."""

from __future__ import annotations

import json
import shutil

import pytest
from pydantic import ValidationError

from promptfed.cli import main
from promptfed.export.origin import BundleOrigin, alike_words, origin_of, provenance, same_prompts, whose_prompt
from promptfed.privacy.statement import promises
from promptfed.runs.directory import RunDirectory


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert not ended.value.code


def origin_in(folder):
    return json.loads((folder / "promptfed_config.json").read_text())["origin"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of PromptFL, in which all have one prompt, and one of FedPer, in which each has tokens of its own."""
    runs = {}
    for method in ("promptfl", "fedper"):
        runs[method] = tmp_path_factory.mktemp("origin") / method
        small = ["--rounds", "1", "--shots", "1", "--clients", "3", "--threads", "1", "--baselines", "none", "--quiet"]
        small += ["--set", "task.val_shots=1", "--set", "task.test_per_class=3"]
        call("train", "--method", method, *small, "--run", runs[method])
    return runs


def test_one_prompt_of_all_clients_is_said_to_be_one(trained, tmp_path, capsys):
    call("export", trained["promptfl"], "--all", "--out", tmp_path)
    out, err = capsys.readouterr()
    assert len(out.split()) == 3
    assert err == "note: clients 0, 1 and 2 have one and the same prompt\n"
    metrics = json.loads((trained["promptfl"] / "metrics.json").read_text())["method"]
    origin = origin_in(tmp_path / "client-1")
    assert origin["alike"] == [0, 2]
    assert origin["whose"] == "client"
    assert origin["data"] == "icons"
    assert origin["accuracy"]["base"] == metrics["base"]
    page = (tmp_path / "client-1" / "README.md").read_text()
    assert "The prompt of client 1, learned" in page
    assert f"base {100 * metrics['base']:.1f} %" in page
    assert f"until {origin['date']}" in page
    assert "Clients 0 and 2 have the very same prompt." in page


def test_prompts_of_the_clients_own_differ_and_the_shared_one_says_so(trained, tmp_path, capsys):
    call("export", trained["fedper"], "--client", 1, "--out", tmp_path / "own")
    call("export", trained["fedper"], "--client", 1, "--shared", "--out", tmp_path / "shared")
    assert capsys.readouterr().err == ""
    own, shared = origin_in(tmp_path / "own"), origin_in(tmp_path / "shared")
    assert (own["whose"], own["alike"]) == ("client", [])
    assert set(own["accuracy"]) == {"local", "local (all classes)", "base", "new"}
    assert (shared["whose"], shared["accuracy"]) == ("shared", {}), "nobody measured the shared prompt alone"
    assert (
        "The prompt that all clients share, exported for client 1, learned"
        in (tmp_path / "shared" / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("alike", "words"),
    [((2,), "Client 2 has"), ((1, 2, 5), "Clients 1, 2 and 5 have"), (tuple(range(1, 110)), "109 other clients have")],
)
def test_clients_with_the_same_prompt_in_words(alike, words):
    assert alike_words(alike) == words


def test_groups_of_clients_are_said_once():
    def own(*alike):
        return BundleOrigin(whose="client", alike=alike)

    groups = {0: own(2), 1: own(), 2: own(0), 3: own(4), 4: own(3), 5: None}
    assert same_prompts(groups) == [
        "clients 0 and 2 have one and the same prompt",
        "clients 3 and 4 have one and the same prompt",
    ]


def test_names_from_outside_are_shown_and_bundles_without_an_origin_still_say_whose_they_are():
    assert whose_prompt(None, 3, "site \x1b[31m") == "The prompt of client 3 (site \\x1b[31m)"
    assert provenance(None) == ""


@pytest.mark.parametrize("accuracy", [1.5, -0.1, float("nan"), float("inf")])
def test_an_accuracy_is_a_share(accuracy):
    with pytest.raises(ValidationError):
        BundleOrigin(whose="client", accuracy={"local": accuracy})


def test_the_readme_says_what_the_run_knows_and_no_more():
    said = provenance(
        BundleOrigin(
            whose="client",
            alike=(4,),
            data="folder:photos",
            date="2025-01-31",
            accuracy={"local": 0.75, "local (all classes)": 0.5, "base": 0.625},
            below_zero_shot=("local", "base"),
            new_classes=("koi", "red\x1b[31m"),
        )
    )
    assert said.strip() == (
        "It was trained on `folder:photos` until 2025-01-31. Test accuracy in its run: local 75.0 %, "
        "local (all classes) 50.0 %, base 62.5 %. Below zero-shot: local, base. No client trained on these classes of "
        "the data, which were held out for tests: koi, red\\x1b[31m. Client 4 has the very same prompt."
    )
    assert provenance(BundleOrigin(whose="client")) == ""
    assert provenance(BundleOrigin(whose="client", data="icons")).strip() == "It was trained on `icons`."


@pytest.mark.parametrize("below", [(), ("base",), ("local", "HM")])
def test_the_readme_flags_what_is_below_zero_shot(below):
    said = provenance(BundleOrigin(whose="client", accuracy={"base": 0.5}, below_zero_shot=below))
    assert ("Below zero-shot" in said) == bool(below)
    assert all(name in said for name in below)


@pytest.mark.parametrize("client", [0, 1, 2])
def test_a_client_with_one_class_takes_home_no_local_accuracy(trained, tmp_path, client):
    run = RunDirectory.open(shutil.copytree(trained["promptfl"], tmp_path / "run"))
    [last] = [event for event in run.events.read() if event["event"] == "evaluation" and event["stage"] == "promptfl"]
    rows = [{**row, "accuracy": None if row["client"] == client else row["accuracy"]} for row in last["local"]]
    run.events.write("evaluation", **{**{k: v for k, v in last.items() if k not in ("event", "time")}, "local": rows})
    for each in range(3):
        origin = origin_of(run, each, shared=False, alike=())
        assert ("local" in origin.accuracy) == (each != client)
        assert ("local " in provenance(origin).replace("local (all", "")) == (each != client)
        assert f"local (all classes) {100 * rows[each]['all_classes']:.1f} %" in provenance(origin)


def test_a_bundle_of_a_private_run_says_what_is_promised():
    found = {
        "differential_privacy": "client", "epsilon": 7.9, "delta": 1e-3, "unit": "one client", "releases": 3,
        "trusts": "the server", "secure_aggregation": "none",
        "not_covered": ["personal prompts: a release of its own", "losses"],
    }  # fmt: skip
    said = promises(found)
    assert said == (
        "Privacy: epsilon 7.90 at delta 0.001 for one client (3 releases; trusts the server)",
        "Not covered: personal prompts: a release of its own",
    )
    tuned = (
        "Not covered: the tuning on a client's own data after the run, without noise: keep the result with that client"
    )
    assert promises(found, is_tuned=True) == (said[0], tuned)
    assert provenance(BundleOrigin(whose="shared", privacy=said)).endswith(f"{said[0]}. {said[1]}.")
    assert promises({**found, "differential_privacy": "none"}) == promises(None) == ()
