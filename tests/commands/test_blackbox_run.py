"""What a user gets after a black-box run on the bundled texts: bundles, figures, a report; and what is refused."""

from __future__ import annotations

import functools
import json
import re

import pytest
from safetensors.numpy import load_file

from promptfed.backbones.minilm import load_minilm
from promptfed.blackbox.oracles.base import LocalBackend
from promptfed.files.sealed_json import sealed_json

SMALL = ["--task", "blackbox-text", "--clients", 2, "--shots", 2, "--set", "task.test_per_class=3"]
SEARCH = [*SMALL, "--rounds", 2, "--method", "fedavg_bbt", "--set", "method.queries=40", "--set", "method.batch_size=8"]


@pytest.fixture(scope="module", autouse=True)
def one_minilm():
    """All of these runs ask the same frozen model, which is loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("promptfed.blackbox.oracles.local.minilm.load_minilm", functools.cache(load_minilm))
        yield


def run_in(folder, words):
    from promptfed.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, words), "--run", str(folder), "--quiet"])
    assert ended.value.code == 0
    return folder


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished run whose prompt is soft; to be read only."""
    return run_in(tmp_path_factory.mktemp("runs") / "soft", [*SEARCH, "--baselines", "zero_shot"])


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A finished run whose prompt is a text: zero-shot."""
    return run_in(tmp_path_factory.mktemp("runs") / "text", [*SMALL, "--method", "zero_shot", "--baselines", "none"])


@pytest.fixture
def no_calls(monkeypatch):
    """From here on the oracle answers from its cache or not at all."""

    def refuse(self, queries, budget):
        raise AssertionError(f"{len(queries)} queries went to the oracle")
        yield

    monkeypatch.setattr(LocalBackend, "answer", refuse)


def test_a_soft_prompt_is_exported_without_a_call_and_sorts_texts(searched, promptfed, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalBackend, "answer", lambda *_: pytest.fail("the oracle was asked"))
        said = promptfed("export", searched, "--client", 0, "--out", tmp_path / "b")
    assert said.code == 0, said.err
    assert load_file(tmp_path / "b" / "soft_prompt.safetensors")["soft"].shape == (5, 384)
    (tmp_path / "texts.txt").write_text("Where is my parcel?\n\nI want my money back.\n")
    said = promptfed("predict", tmp_path / "b", "--file", tmp_path / "texts.txt", "--json")
    assert said.code == 0, said.err
    rows = json.loads(said.out)
    assert [row["text"] for row in rows] == ["Where is my parcel?", "I want my money back."]
    assert [row["ranked"][0]["class"] for row in rows] == ["delivery", "refund"]
    assert promptfed("predict", tmp_path / "b", "Where is it?").out.startswith("Where is it?: ")


def test_a_text_prompt_is_exported_as_text(chosen, promptfed, tmp_path):
    assert promptfed("export", chosen, "--client", 1, "--out", tmp_path / "b").code == 0
    template = json.loads((chosen / "metrics.json").read_text())["template"]
    assert (tmp_path / "b" / "prompt.txt").read_text() == template
    said = promptfed("predict", tmp_path / "b", "Buy this one?", "--classes", "product advice,insult", "--top", 1)
    assert re.fullmatch(r"Buy this one\?: product advice [\d.]+ %\n", said.out)


def test_all_clients_and_the_shared_prompt_alone(searched, promptfed, tmp_path):
    assert promptfed("export", searched, "--all", "--out", tmp_path / "all").code == 0
    assert promptfed("export", searched, "--client", 0, "--shared", "--out", tmp_path / "shared").code == 0
    with_search = load_file(tmp_path / "all" / "client-0" / "prompt.safetensors")
    assert set(with_search) > set(load_file(tmp_path / "shared" / "prompt.safetensors")) == {"shared/z"}


def test_eval_repeats_the_figures_without_a_call(searched, promptfed, no_calls):
    metrics = json.loads((searched / "metrics.json").read_text())
    said = promptfed("eval", searched, "--json")
    assert said.code == 0, said.err
    figures = json.loads(said.out)["texts:requests"]
    assert figures == {"zero_shot": metrics["zero_shot"], "method": metrics["method"], "held_out": []}


def test_eval_on_other_texts_says_what_the_prompt_meets_there(searched, promptfed):
    said = promptfed("eval", searched, "--data", "texts:reviews")
    assert said.code == 0, said.err
    notes = " ".join(said.err.split())
    assert "put in these data's own template" in notes
    assert "negative, positive) are none that the prompt was trained for" in notes
    assert "texts:reviews" in said.out
    assert "HM" not in said.out


@pytest.mark.parametrize("words", [["personalize"], ["personalize", "--method", "none"]])
def test_personalize_says_in_one_line_why_not(searched, promptfed, no_calls, words):
    said = promptfed(words[0], searched, *words[1:])
    assert said.code == 2
    assert "black box gives no gradients" in said.err
    assert said.err.count("\n") == 1
    assert not (searched / "personalized").exists()


def test_onboard_says_in_one_line_what_to_do_instead(searched, promptfed):
    said = promptfed("onboard", searched, "--data", "folder:none")
    assert said.code == 2
    assert f"promptfed export {searched} --client 0 --shared" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.slow
def test_prompts_of_clients_own_are_mixed_with_the_shared_one(promptfed, tmp_path):
    words = [*SMALL, "--partition", "dirichlet", "--alpha", 0.1, "--method", "fedlogic", "--rounds", 1, "--baselines",
             "none", "--set", "method.queries=64", "--set", "method.deploy=mixture"]  # fmt: skip
    kept = promptfed("personalize", run_in(tmp_path / "kept", words))
    assert kept.code == 2
    assert "FedLogic kept zero-shot" in kept.err
    assert "method.keep_zero_shot=false" in kept.err
    run = run_in(tmp_path / "own", [*words, "--set", "method.keep_zero_shot=false"])
    said = promptfed("personalize", run, "--interpolate", "0,0.5,1", "--json")
    assert said.code == 0, said.err
    curve = json.loads(said.out)
    assert (curve["method"], curve["space"]) == ("none", "features")
    metrics = json.loads((run / "metrics.json").read_text())["method"]
    assert curve["rows"][2]["local"] == pytest.approx(metrics["local"]), "alpha 1 is what the run ended with"
    assert promptfed("export", run, "--client", 0).code == 0
    about = json.loads((run / "bundles" / "client-0" / "promptfed_config.json").read_text())
    assert about["alpha"] == curve["clients"][0]["alpha"]
    assert about["complete"] is False
    assert promptfed("predict", run / "bundles" / "client-0", "Where is it?").code == 0
    assert "personalize, validation and test" in (run / "report.html").read_text()


def test_the_report_shows_queries_calls_and_accuracy_by_queries(searched):
    page = (searched / "report.html").read_text()
    assert "oracle minilm" in page
    assert "Line chart of validation accuracy (%) by queries of training, all clients together." in page
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    # 2 clients, 2 rounds, 40 queries each
    assert re.search(r"FedAvg-BBT, training 160 \d+ \d+", text)
    assert "zero-shot, training" in text
    assert "images, texts" not in text
    assert "HM" not in text


def test_train_and_list_name_the_oracle_and_what_it_was_asked(promptfed, tmp_path, searched):
    said = promptfed("train", *SMALL, "--method", "zero_shot", "--baselines", "none", "--run", tmp_path / "again")
    assert said.code == 0, said.err
    assert re.search(r"zero-shot: round 1/1 .* oracle 0 calls, \d+ known", " ".join(said.err.split()))
    assert re.search(r"\d+ queries: oracle 0 calls", " ".join(said.out.split()))
    rows = json.loads(promptfed("list", "runs", "--runs", searched.parent, "--json").out)
    assert rows[str(searched)]["model"] == "minilm"


def test_a_model_that_is_not_the_one_of_the_run_is_refused(searched, promptfed, tmp_path):
    import shutil

    run = shutil.copytree(searched, tmp_path / "run")
    about = json.loads((run / "partition.json").read_text())
    assert about["form"]["template"].startswith("{{ prompt }}")
    about["oracle"]["fingerprint"] = "f" * 64
    del about["checksum"]
    (run / "partition.json").write_bytes(sealed_json(about))
    (run / "run.json").unlink()
    said = promptfed("export", run, "--client", 0)
    assert said.code == 2
    assert "trained with another oracle than 'minilm' is now" in said.err


def test_the_bundle_of_a_paid_oracle_is_made_without_reaching_it(chosen, promptfed, tmp_path):
    import shutil

    import yaml

    run = shutil.copytree(chosen, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"oracle": "api", "oracle_options": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "max_usd": 1.0}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    table = json.loads((run / "partition.json").read_text())
    del table["oracle"], table["checksum"]  # it was another one
    (run / "partition.json").write_bytes(sealed_json(table))
    (run / "run.json").unlink()
    said = promptfed("export", run, "--client", 0)
    assert said.code == 0, said.err
    bundle = run / "bundles" / "client-0"
    page = (bundle / "README.md").read_text()
    template = json.loads((run / "metrics.json").read_text())["template"]
    assert f"{template} Message: This stands for the text to be sorted.".strip() in page
    assert "for the oracle `api, model m`" in page
    assert "may cost money" in page
    options = json.loads((bundle / "promptfed_config.json").read_text())["oracle"]["options"]
    assert options["base_url"] == "http://127.0.0.1:9/v1"
    assert "max_usd" not in options


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "nothing to classify"),
        (["--file", "none.txt"], "cannot read --file 'none.txt'"),
        (["a text", "--backbone", "tiny"], "--backbone does not go with a bundle for a black box"),
        (["a text", "--classes", "one"], "at least two"),
        (["a text", "--oracle", "minilmm"], "minilm"),
    ],
)
def test_predict_refuses_in_one_line(chosen, promptfed, tmp_path, words, part):
    assert promptfed("export", chosen, "--client", 0, "--out", tmp_path / "b").code == 0
    said = promptfed("predict", tmp_path / "b", *words)
    assert said.code == 2
    assert part in said.err
    assert said.err.count("\n") == 1


def test_methods_say_which_model_they_need_and_what_they_send_to_a_black_box(promptfed, searched):
    rows = json.loads(promptfed("list", "methods", "--bytes", "--json").out)
    events = map(json.loads, (searched / "events.jsonl").read_text().splitlines())
    sent = {(e["bytes_up"], e["bytes_down"]) for e in events if e["event"] == "client" and e["stage"] == "fedavg_bbt"}
    row = rows["fedavg_bbt"]
    assert (row["access"], row["requires"]) == ("black box", ["soft prompts"])
    assert {(row["bytes_up"], row["bytes_down"])} == sent
    assert rows["promptfl"]["bytes_up"] > 16 * 128 * 4
    assert all("unfit" not in about for about in rows.values())


def test_tasks_show_counts_texts(promptfed):
    words = ["--task", "blackbox-text", "--clients", 2, "--shots", 2]
    assert "test texts" in promptfed("tasks", "show", *words).out
    assert json.loads(promptfed("tasks", "show", *words, "--json").out)["examples"] == "texts"


@pytest.mark.parametrize(
    ("method", "settings", "needed"),
    [
        ("fedbpt", ["method.queries=40"], 112),
        ("bbt", ["method.queries=8"], 80),
        ("fedavg_bbt", ["method.queries=79"], 80),
        ("fedbdpl", ["method.queries=31"], 32),
        ("fedkseed_prompt", ["method.queries=3"], 32),
    ],
)
def test_a_search_that_can_make_no_step_is_refused_before_anything_is_asked(
    no_calls, promptfed, tmp_path, method, settings, needed
):
    words = [word for setting in settings for word in ("--set", setting)]
    said = promptfed("train", *SMALL, "--method", method, *words, "--run", tmp_path / "run")
    assert said.code == 2
    assert f"needs at least {needed} queries a round" in said.err.replace("\n", " ")
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in said.err


def test_a_budget_that_allows_no_step_is_refused_before_anything_is_asked(no_calls, promptfed, tmp_path):
    said = promptfed("train", *SEARCH, "--max-calls", 7, "--run", tmp_path / "run")
    assert said.code == 2
    assert "--max-calls 7 allows no step of FedAvg-BBT" in said.err.replace("\n", " ")


def test_compare_names_the_method_that_can_make_no_step(promptfed, tmp_path):
    small = ["--task", "blackbox-text", "--clients", 2, "--shots", 2, "--set", "task.test_per_class=1", "--rounds", 1]
    words = ["--methods", "fedbpt,fedkseed_prompt", "--seeds", 1, "--set", "method.queries=40"]
    said = promptfed("compare", *small, *words, "--out", tmp_path / "out")
    shown = " ".join(said.out.split() + said.err.split())
    assert "fedbpt is left out: does not fit: method option 'queries' is 40" in shown
    assert (tmp_path / "out" / "fedkseed_prompt" / "seed-0" / "metrics.json").exists()
    assert not (tmp_path / "out" / "fedbpt").exists()


@pytest.mark.slow
def test_a_kept_zero_shot_prompt_is_said_exported_and_used(promptfed, tmp_path, monkeypatch):
    from promptfed import zero_shot_choice

    monkeypatch.setattr(zero_shot_choice, "_better", zero_shot_choice._template)
    run = tmp_path / "run"
    said = promptfed("train", *SEARCH, "--run", run)
    assert said.code == 0, said.err
    metrics = json.loads((run / "metrics.json").read_text())
    template = metrics["template"]
    said_template = f'kept zero-shot: "{template}"' if template else "kept zero-shot"
    assert metrics["kept_zero_shot"]["method"] == said_template
    assert metrics["kept_zero_shot"]["local_only"] == "kept zero-shot at 2 of 2 clients"
    assert "kept zero-shot" in said.out
    assert metrics["method"]["base"] == metrics["zero_shot"]["base"]
    assert metrics["method"]["local"] == metrics["zero_shot"]["local"]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["stage"] for event in events if event["event"] == "selection"] == ["local_only", "fedavg_bbt"]
    assert promptfed("export", run, "--client", 1, "--out", tmp_path / "b").code == 0
    assert (tmp_path / "b" / "prompt.txt").read_text() == template
    assert not (tmp_path / "b" / "soft_prompt.safetensors").exists()
    assert promptfed("predict", tmp_path / "b", "Where is my parcel?").out.startswith("Where is my parcel?: delivery")
    again = promptfed("train", "--resume", run, "--json")
    assert json.loads(again.out)["method"] == metrics["method"]


def test_keeping_zero_shot_can_be_turned_off(promptfed, tmp_path):
    off = ["--set", "method.keep_zero_shot=false", "--run", tmp_path / "run", "--baselines", "none", "--json"]
    said = promptfed("train", *SEARCH, *off)
    assert "kept_zero_shot" not in json.loads(said.out)
    assert '"event": "selection"' not in (tmp_path / "run" / "events.jsonl").read_text()
