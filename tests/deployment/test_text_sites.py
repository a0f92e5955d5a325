"""Language models over sites that hold their own texts, on a grid in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

import promptfed as pf
from promptfed.config import build_config
from promptfed.deployment import codec
from promptfed.deployment.readme import readme
from promptfed.deployment.server import ServerOptions, serve
from promptfed.deployment.site import Site, SiteOptions
from promptfed.deployment.site_export import export_site
from promptfed.errors import ConfigError, DeploymentError
from promptfed.experiment import Experiment
from promptfed.export.bundle import read_bundle
from promptfed.language_models.loading import load_language_model
from promptfed.privacy.release import PrivateMean, SumMean
from promptfed.resolve import complete, resolve
from promptfed.runs.directory import RunDirectory
from promptfed.training import Training

from ..tiny_language_models import WORDS, tokenizer, transformer
from .secure_sites import KEY, TERMS, changes_of, one_round, secure_sites, values

NAMES = ("north", "south", "west")
LABELS = {"positive": ("good", "great", "wonderful"), "negative": ("bad", "terrible", "boring")}
OPTIONS: dict[str, Any] = {
    "task": "text-classification", "method": "fedprompt", "clients": 3, "shots": 3, "rounds": 2, "baselines": [],
    "threads": 1,
    "task_options": {"val_shots": 1, "words": {"positive": "good", "negative": "bad"}},
    "method_options": {"local_epochs": 1, "batch_size": 2},
}  # fmt: skip
SECRET = "confidential"
"""A word of every text."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("llama", "gpt2", "bert"):
        transformer(name).save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def one_model(monkeypatch) -> None:
    """Sites of one process need not load the same weights again."""
    kept: dict[str, Any] = {}

    def loaded(backbone, form, **named):
        key = f"{backbone} {form.model_dump_json()}"
        if key not in kept:
            kept[key] = load_language_model(backbone, form, **named)
        return kept[key]

    monkeypatch.setattr("promptfed.objects.load_language_model", loaded)


def lines_of(number: int) -> list[tuple[str, str]]:
    """The texts of a site with their labels; no other site has one of them."""
    nouns = WORDS[number * 8 : number * 8 + 8]
    return [
        (f"{SECRET} {noun} {place} was {words[k % 3]}", label)
        for k, noun in enumerate(nouns)
        for place, (label, words) in zip(("the", "a"), LABELS.items(), strict=True)
    ]


def write_tsv(path: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = ("text", "label")) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(row) for row in [columns, *rows]) + "\n")


class Clinics:
    """Three sites with a table each, and the pooled table that one party with all of them would have."""

    def __init__(self, folder: Path, models: Path, grid: Any) -> None:
        self.folder, self.models, self.grid = folder, models, grid
        write_tsv(
            folder / "all.tsv",
            [(*row, n) for k, n in enumerate(NAMES) for row in lines_of(k)],
            ("text", "label", "site"),
        )
        for number, name in enumerate(NAMES):
            write_tsv(self.table(name), lines_of(number))
            self.start(number, name)

    def table(self, name: str) -> Path:
        return self.folder / f"{name} data" / "texts.tsv"

    def start(self, number: int, name: str, **words: Any) -> None:
        usual = {"site": name, "data": f"tsv:{self.table(name)}", "state-dir": str(self.folder / name)}
        self.grid.nodes[number] = Site(SiteOptions.of({**usual, **words})).answer

    def options(self, changes: dict[str, Any]) -> dict[str, Any]:
        return {**OPTIONS, "backbone": f"lm:{self.models / 'llama'}", **changes}

    def serve(self, settings: dict[str, Any] | None = None, **changes: Any) -> Any:
        usual = {"run-dir": str(self.folder / "run"), "wait-seconds": 0.5, "poll-seconds": 0.01, "min-sites": 2}
        config = build_config({**self.options(changes), "data": "sites"})
        options = {**usual, "patience-seconds": 0.2, **(settings or {})}
        return serve(self.grid, ServerOptions.model_validate(options), config)

    def pooled(self, **changes: Any) -> dict[str, Any]:
        options = self.options(changes)
        options["task_options"] = {**options["task_options"], "domain_column": "site"}
        config = resolve(build_config({**options, "data": f"tsv:{self.folder / 'all.tsv'}", "partition": "domain"}))
        run = RunDirectory.create(self.folder / f"pooled-{config.method}", config, label="")
        metrics: dict[str, Any] = Training(Experiment.build(config), run).execute()
        return metrics


@pytest.fixture
def clinics(tmp_path, models, grid) -> Clinics:
    return Clinics(tmp_path, models, grid)


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("fedptuning", "feddat")]


@pytest.mark.parametrize("method", ["fedprompt", "fedit", *SLOW])
def test_sites_get_the_prompts_of_one_party_that_had_all_their_texts(clinics, method):
    options = {"method": method, "method_options": {"local_epochs": 1, "batch_size": 2}}
    done, expected = clinics.serve(**options), clinics.pooled(**options)
    assert done.metrics["prompt_sha256"] == expected["prompt_sha256"]
    assert done.metrics["method"]["local"] == expected["method"]["local"]
    assert done.metrics["examples"] == "texts"
    table = json.loads((clinics.folder / "run" / "partition.json").read_text())
    pooled = json.loads((clinics.folder / f"pooled-{method}" / "partition.json").read_text())
    for name in ("classes", "examples", "form", "backbone"):
        assert table[name] == pooled[name]
    assert [row["train"] for row in table["clients"]] == [[5, 5]] * 3, "what each announced"


def test_no_message_holds_a_text(clinics):
    clinics.serve(rounds=1)
    for message in clinics.grid.seen:
        assert SECRET not in message.content["about"]["json"]
        assert str(clinics.folder / "north data") not in message.content["about"]["json"]


def test_the_run_is_exported_for_peft_and_a_site_takes_its_prompt_home(clinics, tmp_path):
    peft = pytest.importorskip("peft")
    clinics.serve()
    folder = pf.load_run(clinics.folder / "run").export(0, tmp_path / "adapter", format="peft")
    config = peft.PeftConfig.from_pretrained(str(folder))
    assert config.peft_type == "PROMPT_TUNING"
    home, after = export_site(clinics.folder / "north", tmp_path / "home")
    bundle = read_bundle(home)
    assert (after, bundle.meta.examples, bundle.meta.client_name) == (2, "texts", "north")
    assert bundle.shared.to_bytes() == read_bundle(next((clinics.folder / "north").glob("*/prompt"))).shared.to_bytes()
    predictor = pf.load(home, backbone=f"lm:{clinics.models / 'llama'}")
    assert predictor.predict(["the film was good"]) is not None


def test_a_run_that_was_stopped_goes_on_and_a_site_that_drops_out_costs_its_own_update(clinics, capsys):
    first = clinics.serve()
    shutil.rmtree(clinics.folder / "run" / "checkpoints" / "round-0002")
    for number, name in enumerate(NAMES):
        del clinics.grid.nodes[number]
        clinics.start(100 + number, name)
    assert clinics.serve().metrics["prompt_sha256"] == first.metrics["prompt_sha256"]
    well = clinics.grid.nodes[101]

    def leaves(content):
        if codec.kind_of(content) == "Train":
            raise MemoryError("no more memory")
        return well(content)

    clinics.grid.nodes[101] = leaves
    done = clinics.serve({"run-dir": str(clinics.folder / "fewer")})
    assert done.metrics["prompt_sha256"] != first.metrics["prompt_sha256"]
    assert "no more memory" in capsys.readouterr().out


def test_a_local_copy_of_the_model_may_have_another_path_and_not_other_weights(clinics, capsys):
    shutil.copytree(clinics.models / "llama", clinics.folder / "copy")
    clinics.start(0, "north", backbone=f"lm:{clinics.folder / 'copy'}")
    clinics.start(1, "south", backbone=f"lm:{clinics.models / 'gpt2'}")
    done = clinics.serve()
    assert len(done.bundles) == 2
    said = capsys.readouterr().out
    assert "gpt2' here has fingerprint" in said
    assert "bring the same weights and precision" in said
    assert "agreed: 2 sites (north, west), 2 classes" in said


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: c.table("west").write_text(""), "has no readable text"),
        (lambda c: c.table("west").write_text("text\tlabel\n"), "has no readable text"),
        (
            lambda c: write_tsv(c.table("west"), lines_of(2), ("words", "label")),
            "has no column 'text'; it has words, label",
        ),
        (lambda c: c.table("west").unlink(), "does not exist"),
        (lambda c: c.start(2, "west", data=f"folder:{c.folder}"), "unknown source of texts 'folder'"),
    ],
)
def test_a_site_whose_texts_do_not_fit_is_left_out_in_one_line(clinics, capsys, change, why):
    change(clinics)
    assert len(clinics.serve(rounds=1).bundles) == 2
    [line] = [line for line in capsys.readouterr().out.splitlines() if why in line]
    assert "left out" in line


def test_a_label_that_is_not_one_of_the_run_s_is_named_at_the_start(clinics, capsys):
    write_tsv(clinics.table("west"), [*lines_of(2), ("a film of the world", "neutral"), ("a plot", "neutral")])
    assert len(clinics.serve({"classes": "positive, negative"}, rounds=1).bundles) == 2
    assert "texts.tsv is not one of the agreed classes: positive, negative; change the label" in capsys.readouterr().out


def test_spellings_of_a_label_are_asked_about(clinics):
    write_tsv(clinics.table("west"), [(text, label.capitalize()) for text, label in lines_of(2)])
    with pytest.raises(DeploymentError, match="'Negative' at west and 'negative' at north, south one class"):
        clinics.serve({"run-dir": str(clinics.folder / "asked")})
    assert len(clinics.serve({"merge-classes": True}, rounds=1).bundles) == 3


def test_a_site_with_one_class_takes_part_and_is_told_of_texts_that_are_cut(clinics, caplog):
    rows = [row for row in lines_of(2) if row[1] == "positive"]
    write_tsv(clinics.table("west"), [*rows, (" ".join(["very"] * 80), "positive")])
    assert len(clinics.serve(rounds=1).bundles) == 3
    [line] = [record.message for record in caplog.records if "are longer than" in record.message]
    assert line.startswith("1 of ")
    assert "the first is texts.tsv:10" in line


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"task_options": {"labels": 12}}, "task option 'labels' does not go with data of sites"),
        ({"task_options": {"domain_column": "site"}}, "task option 'domain_column' does not go with"),
        ({"task_options": {"words": {"positiv": "good"}}}, "names 'positiv', which is no class here: did you mean"),
        ({"task_options": {"descriptions": {"positive": "fine"}}}, "has nothing for class 'negative'"),
    ],
)
def test_options_that_do_not_fit_are_said_before_round_1(clinics, options, why):
    with pytest.raises(ConfigError, match=why):
        clinics.serve(**options)


def test_descriptions_are_the_run_s_and_one_of_a_site_is_pointed_out(clinics):
    table = clinics.table("west").parent / "classes.csv"
    table.write_text("label,name,description\npositive,positive,something nice\n")
    descriptions = {"positive": "a good review", "negative": "a bad review"}
    done = clinics.serve(
        rounds=1,
        backbone=f"lm:{clinics.models / 'bert'}",
        task_options={"val_shots": 1, "descriptions": descriptions},
    )
    assert not [note for note in done.metrics["data_notes"] if "is not used" in note], "the run describes that class"
    assert json.loads((clinics.folder / "run" / "partition.json").read_text())["form"]["descriptions"] == descriptions
    other = clinics.serve({"run-dir": str(clinics.folder / "bare")}, rounds=1, backbone=f"lm:{clinics.models / 'bert'}")
    assert [
        note for note in other.metrics["data_notes"] if "description of 'positive' in classes.csv is not used" in note
    ]


def test_questions_with_answers_are_as_with_one_party(tmp_path, models, grid):
    rows = {
        name: [(f"say {noun} {name}", f"the {noun}") for noun in WORDS[k * 8 : k * 8 + 8]]
        for k, name in enumerate(NAMES)
    }
    for k, name in enumerate(NAMES):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in rows[name]))
        words = {"site": name, "data": f"jsonl:{path}", "state-dir": str(tmp_path / name)}
        grid.nodes[k] = Site(SiteOptions.of(words)).answer
    lines = [{"question": q, "answer": a, "site": name} for name in NAMES for q, a in rows[name]]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    usual = {
        "task": "text-generation", "backbone": f"lm:{models / 'llama'}", "clients": 3, "rounds": 2, "baselines": [],
        "shots": 3, "threads": 1, "method_options": {"local_epochs": 1, "batch_size": 2},
        "task_options": {"val_shots": 1, "answer_tokens": 4},
    }  # fmt: skip
    words = {"run-dir": str(tmp_path / "run"), "wait-seconds": 0.5, "poll-seconds": 0.01, "min-sites": 3}
    done = serve(grid, ServerOptions.model_validate(words), build_config({**usual, "data": "sites"}))
    pooled_options = {**usual, "data": f"jsonl:{tmp_path / 'all.jsonl'}", "partition": "domain"}
    pooled_options["task_options"] = {**usual["task_options"], "domain_column": "site"}
    config = resolve(build_config(pooled_options))
    expected = Training(Experiment.build(config), RunDirectory.create(tmp_path / "pooled", config, label="")).execute()
    assert done.metrics["prompt_sha256"] == expected["prompt_sha256"]
    assert done.metrics["method"]["local"] == expected["method"]["local"]
    assert done.metrics["examples"] == "questions"
    assert read_bundle(next((tmp_path / "north").glob("*/prompt"))).meta.examples == "questions"


# -------------------------------------------------------------------------------------- privacy, as with images


@pytest.fixture
def dealt(clinics) -> dict[str, Any]:
    """The options of a run whose nodes each play a client of the pooled texts."""
    return {**clinics.options({}), "data": f"tsv:{clinics.folder / 'all.tsv'}", "partition": "iid", "rounds": 2}


def test_secure_sums_end_at_the_plain_mean_of_the_clipped_changes(simulate, dealt):
    pytest.importorskip("cryptography")
    simulation = secure_sites(simulate, **dealt)
    start, changes = changes_of(dealt, 3)
    state, replies, incidents = one_round(simulation)
    assert incidents == []
    assert all(len(reply.update.shared) == 0 for reply in replies)
    assert (values(state) - start - torch.stack(changes).mean(0)).abs().max() < 1e-6
    assert torch.stack(changes).norm(dim=1).min() > 1e-3


@pytest.mark.slow
def test_secure_sums_of_descriptors_over_sites_are_the_plain_sum(simulate, small, models):
    """Each site sends a table with a row for each engine, zeros but for its own, and the server sees no table."""
    pytest.importorskip("cryptography")
    for name in ("data", "partition", "clients", "shots", "method_options", "rounds"):
        small.pop(name)
    options = {
        **small, "task": "federated-search", "backbone": f"lm:{models / 'bert'}", "task_options": {"judged": 30},
        "privacy_options": TERMS,
    }  # fmt: skip
    config = complete(build_config(options))
    simulation = secure_sites(simulate, **config.model_dump(mode="json"))
    state, replies, incidents = one_round(simulation)
    plain = Experiment.build(config).federation(release=SumMean(TERMS["clip"]))
    expected, _ = plain.run_round(plain.start())
    assert incidents == []
    assert all(len(reply.update.shared) == 0 for reply in replies)
    assert tuple(state.shared["descriptors"].shape) == (8, 33)
    assert (state.shared["descriptors"].norm(dim=1) > 0.01).all()
    assert 0 < (values(state) - values(expected)).abs().max() < 1e-6


def test_the_server_s_noise_is_that_of_the_local_engine(simulate, dealt):
    terms = {"dp": "client", "noise": 1.5, "delta": 1e-3, "clip": TERMS["clip"]}
    simulation = simulate(**dealt, privacy_options=terms)
    experiment = Experiment.build(resolve(build_config({**dealt, "privacy_options": terms})))
    state, _, incidents = one_round(simulation, release=PrivateMean(KEY, 0.5, 1.5, range(3)))
    federation = experiment.federation(release=PrivateMean(KEY, 0.5, 1.5, range(3)))
    expected, _ = federation.run_round(federation.start())
    assert incidents == []
    assert state.shared.sha256() == expected.shared.sha256()


def test_a_private_run_over_sites_with_secure_sums_is_served(clinics):
    pytest.importorskip("cryptography")
    terms = {"secure_aggregation": True, "dp": "client", "noise": 1.5, "delta": 1e-3, "clip": 0.5}
    done = clinics.serve({"min-sites": 3}, rounds=1, privacy_options=terms)
    assert len(done.bundles) == 3
    assert any("secure aggregation: the server can compute the sum" in line for line in done.metrics["privacy"])
    events = [json.loads(line) for line in (clinics.folder / "run" / "events.jsonl").read_text().splitlines()]
    sums = [event for event in events if event["event"] == "sum"]
    assert [event["client"] for event in sums] == [0, 1, 2]
    counted = sum(event["bytes_up"] for event in events if event["event"] in ("client", "sum"))
    assert done.metrics["cost"]["bytes_up"] == counted > sum(event["bytes_up"] for event in sums) > 3 * 4 * 32
    assert done.metrics["update"]["bytes"] == round(counted / 3)


def test_the_readme_of_an_app_speaks_of_texts_and_of_the_run_s_columns(tmp_path):
    options = {**OPTIONS, "data": "sites", "task_options": {"text_column": "note"}}
    text = readme(resolve(build_config(options)), folder=tmp_path, run_dir=tmp_path / "run", sites=3, version="0")
    for part in (
        'data="tsv:/site/texts.tsv"',
        "--task text-classification --backbone lm:minilm --set task.text_column=note",
    ):
        assert part in text
    assert "Texts and personal prompts stay at their sites." in text
    assert "image" not in text
    assert "photo" not in text


def test_noise_for_each_text_is_added_at_the_sites(clinics):
    pytest.importorskip("dp_accounting")
    for number, name in enumerate(NAMES):
        clinics.start(number, name, **{"max-epsilon": 10, "delta": 1e-3})
    terms = {"dp": "example", "noise": 1.5, "delta": 1e-3, "clip": 0.5}
    options = {"local_epochs": 1, "batch_size": "all"}
    done = clinics.serve({"min-sites": 3}, rounds=1, privacy_options=terms, method_options=options)
    assert done.metrics["privacy"][0].startswith("privacy: epsilon 1.91 (all 3 clients)")
