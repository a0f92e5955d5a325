"""Sites with data of their own, on a grid in this process: what they agree on, and what they cannot."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

pytest.importorskip("flwr")

from promptfed.config import build_config
from promptfed.deployment import codec, messages
from promptfed.deployment.server import ServerOptions, serve
from promptfed.deployment.site import Site, SiteOptions
from promptfed.deployment.site_export import export_site
from promptfed.deployment.site_status import site_status
from promptfed.errors import ConfigError, DeploymentError, RunError
from promptfed.experiment import Experiment
from promptfed.export.bundle import read_bundle
from promptfed.resolve import resolve
from promptfed.runs.directory import RunDirectory
from promptfed.training import Training

OPTIONS = {
    "task": "clip-domains", "clients": 3, "shots": 1, "rounds": 2, "baselines": [], "method": "fedper",
    "backbone": "tiny",
    "task_options": {"val_shots": 1}, "method_options": {"n_ctx": 6, "local_epochs": 1},
}  # fmt: skip
HELD = {"north": ["ant", "bee", "cat"], "south": ["bee", "cat", "dog"], "west": ["dog", "eel", "ant"]}


@pytest.fixture
def domains(pictures, tmp_path):
    """One folder with a domain for each site, as one party that had all the data would hold it."""
    folder = tmp_path / "all"
    for site, classes in HELD.items():
        for name in classes:
            shutil.copytree(pictures / name, folder / site / name)
            for path in (folder / site / name).iterdir():  # the same picture twice would be left out
                picture = Image.open(path)
                picture.putpixel((0, 0), (list(HELD).index(site), 0, 0))
                picture.save(path)
    return folder


class Hospitals:
    def __init__(self, folder, domains, grid):
        self.folder, self.domains, self.grid = folder, domains, grid
        for number, name in enumerate(HELD):
            self.start(number, name)

    def start(self, number, name, **config):
        words = {"site": name, "data": f"folder:{self.domains / name}", "state-dir": str(self.folder / name), **config}
        self.grid.nodes[number] = Site(SiteOptions.of(words)).answer

    def serve(self, options=OPTIONS, **settings):
        usual = {"run-dir": str(self.folder / "run"), "wait-seconds": 0.5, "poll-seconds": 0.01, "min-sites": 2}
        usual["patience-seconds"] = 0.2
        config = build_config({**options, "data": "sites"})
        return serve(self.grid, ServerOptions.model_validate({**usual, **settings}), config)


@pytest.fixture
def hospitals(tmp_path, domains, grid):
    return Hospitals(tmp_path, domains, grid)


def test_sites_get_the_prompts_of_one_party_that_had_all_their_images(hospitals, domains, tmp_path):
    done = hospitals.serve(observers="jsonl")
    config = resolve(build_config({**OPTIONS, "data": f"folder:{domains}"}))
    run = RunDirectory.create(tmp_path / "pooled", config, label="")
    expected = Training(Experiment.build(config), run).execute()
    assert done.metrics["prompt_sha256"] == expected["prompt_sha256"]
    assert done.metrics["method"]["local"] == expected["method"]["local"]
    table = json.loads((tmp_path / "run" / "partition.json").read_text())
    pooled = json.loads((tmp_path / "pooled" / "partition.json").read_text())
    assert [row["name"] for row in table["clients"]] == [row["name"] for row in pooled["clients"]] == sorted(HELD)
    assert table["classes"] == pooled["classes"]
    observed = [json.loads(line) for line in (tmp_path / "run" / "observed.jsonl").read_text().splitlines()]
    assert [observed[0]["event"], observed[-1]["state"]] == ["begin", "finished"]
    losses = {name for line in observed for name in line if name.endswith("/loss")}
    assert losses == {f"client_{number}/loss" for number in range(3)}


def test_no_message_holds_an_image_or_a_personal_prompt(hospitals):
    hospitals.serve()
    names = {name for message in hospitals.grid.seen for name in message.content["arrays"]}
    assert names == {"shared/ctx"}
    assert not [
        message for message in hospitals.grid.seen if str(hospitals.domains) in message.content["about"]["json"]
    ]


def test_each_site_has_its_prompt_on_its_own_disk_and_can_export_it_again(hospitals, tmp_path):
    done = hospitals.serve()
    for client, name in enumerate(sorted(HELD)):
        bundle = read_bundle(next((tmp_path / name).glob("*/prompt")))
        assert done.bundles[client].startswith(str(tmp_path / name))
        assert bundle.meta.client_name == name
        again, after = export_site(tmp_path / name, tmp_path / f"take-home-{name}")
        assert after == 2
        assert read_bundle(again).personal.to_bytes() == bundle.personal.to_bytes()
        assert read_bundle(again).shared.to_bytes() == bundle.shared.to_bytes()
    with pytest.raises(DeploymentError, match="keeps nothing of any run"):
        export_site(tmp_path / "nowhere", tmp_path / "out")


def test_a_site_with_an_unknown_class_is_left_out_with_a_line_on_both_ends(hospitals, capsys, caplog):
    (hospitals.domains / "west" / "dog").rename(hospitals.domains / "west" / "doggo")
    hospitals.serve(**{"classes": "ant, bee, cat, dog, eel"})
    wanted = "class 'doggo' of folder:"
    assert wanted in capsys.readouterr().out
    assert [r for r in caplog.records if wanted in r.message and "\n" not in r.message and r.message.startswith("west")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda h: shutil.rmtree(h.domains / "west"), "does not exist"),
        (lambda h: h.start(2, "west", device="warp"), "warp"),
    ],
)
def test_a_site_that_does_not_fit_is_left_out_and_the_others_go_on(hospitals, capsys, change, why):
    change(hospitals)
    assert len(hospitals.serve().bundles) == 2
    assert why in capsys.readouterr().out


def test_too_few_sites_end_in_one_line_that_says_why(hospitals):
    shutil.rmtree(hospitals.domains / "west")
    with pytest.raises(DeploymentError, match=r"2 sites fit after .* 3 are needed \(min-sites\): data folder .*west"):
        hospitals.serve(**{"min-sites": 3})


def test_a_finished_or_stopped_run_goes_on_where_it_was(hospitals, tmp_path, capsys):
    first = hospitals.serve()
    for number, name in enumerate(reversed(HELD)):
        hospitals.start(100 + number, name)
        del hospitals.grid.nodes[2 - number]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "round-0002")
    again = hospitals.serve()
    assert again.metrics["prompt_sha256"] == first.metrics["prompt_sha256"]
    assert "going on with" in capsys.readouterr().out
    with pytest.raises(RunError, match="another shots"):
        hospitals.serve({**OPTIONS, "shots": 2})


def test_a_newcomer_does_not_disturb_a_run_that_has_begun(hospitals, capsys):
    first = hospitals.serve()
    shutil.copytree(hospitals.domains / "west", hospitals.domains / "east")
    hospitals.start(7, "east")
    assert hospitals.serve().metrics["prompt_sha256"] == first.metrics["prompt_sha256"]
    assert "east is not part of this run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"task": "blackbox-text"}, "black box"),
        ({"clients": None}, "--clients N"),
    ],
)
def test_what_cannot_be_run_over_sites_is_said_at_once(hospitals, options, why):
    chosen = {"task": "clip-fewshot", "clients": 3, **options}
    with pytest.raises(ConfigError, match=why):
        hospitals.serve(chosen)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({}, "state-dir"),
        ({"state-dir": "/s"}, "neither data"),
        ({"state-dir": "/s", "data": "folder:/d"}, "no site="),
        ({"state-dir": "/s", "partition-id": -1}, "partition-id"),
    ],
)
def test_wrong_words_of_a_node_are_named(words, why):
    with pytest.raises(ConfigError, match=why):
        SiteOptions.of(words)


# ------------------------------------------------------------------------- sites that lie, names that clash


def lying(well, change):
    """A site whose first answer is changed: ``change`` is given its words as they go out."""

    def answer(content):
        packed = well(content)
        if codec.kind_of(packed) == "HelloAnswer":
            about = json.loads(packed["about"]["json"])
            change(about["words"])
            packed["about"] = codec.ConfigRecord({"json": json.dumps(about)})
        return packed

    return answer


LIES = {
    "counts of 10**12": lambda words: words.update(train=[10**12] * len(words["train"])),
    "a count of 10**400": lambda words: words.update(test=[10**400] * len(words["test"])),
    "too few counts": lambda words: words.update(val=[1]),
    "20,000 classes": lambda words: words.update(
        classes=[f"c{n}" for n in range(20_000)], **dict.fromkeys(("train", "val", "test"), [1] * 20_000)
    ),
    "a name of 10 MB": lambda words: words["site"].update(name="x" * 10_000_000),
    "a class of 10 MB": lambda words: words["classes"].__setitem__(0, "x" * 10_000_000),
    "an escape code": lambda words: words["site"].update(name="\x1b[31mwest"),
    "the name of another": lambda words: words["site"].update(name="north"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_first_answer_that_lies_costs_that_site_alone(hospitals, capsys, lie):
    north, south, west = hospitals.grid.nodes.values()
    hospitals.grid.nodes = {10: north, 11: south, 2: lying(west, LIES[lie])}  # who lies answers last
    assert sorted(hospitals.serve({**OPTIONS, "rounds": 1}).bundles) == [0, 1]
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "node 2" in line and "left out" in line and len(line) < 500]
    assert "agreed: 2 sites (north, south), 4 classes" in lines
    assert not [line for line in lines if "\x1b" in line]


@pytest.mark.slow
def test_a_name_belongs_to_its_site_also_after_a_restart_of_the_server(hospitals, capsys):
    hospitals.serve()
    north = hospitals.grid.nodes.pop(0)
    hospitals.grid.nodes[77] = lying(hospitals.grid.nodes[1], LIES["the name of another"])
    del hospitals.grid.nodes[1]
    hospitals.start(88, "south")
    hospitals.serve()
    said = capsys.readouterr().out
    assert "node 77 calls itself north, which is the site of node 0: left out" in said
    hospitals.grid.nodes = {99: north, 88: hospitals.grid.nodes[88], 2: hospitals.grid.nodes[2]}
    hospitals.serve()
    said = capsys.readouterr().out
    assert "north, south, west" in said, "its own state-dir shows that it is the same site, at whatever node"
    kept = json.loads((hospitals.folder / "run" / "deployment.json").read_text())
    assert kept["holders"]["north"]["node"] == 99
    key = (hospitals.folder / "north" / kept["run"] / "key").read_text()
    assert key not in (hospitals.folder / "run" / "deployment.json").read_text()


@pytest.mark.slow
def test_a_site_that_lost_its_state_dir_is_let_in_again_when_the_server_says_so(hospitals, capsys):
    hospitals.serve()
    shutil.rmtree(hospitals.folder / "north")
    del hospitals.grid.nodes[0]
    hospitals.start(77, "north", **{"lost-state": "restart"})
    hospitals.serve()
    assert 'forget-sites="north"' in capsys.readouterr().out
    hospitals.serve(**{"forget-sites": "north"})
    assert "3 of 3 sites are here" in capsys.readouterr().out


def renamed(hospitals, site, name, other):
    (hospitals.domains / site / name).rename(hospitals.domains / site / other)


@pytest.mark.parametrize("other", ["Bee", "BEE", "b ee"])
def test_class_names_that_differ_in_spelling_only_are_asked_about_before_round_1(hospitals, other):
    renamed(hospitals, "south", "bee", other)
    with pytest.raises(DeploymentError, match=r"classes\.csv") as asked:
        hospitals.serve()
    for part in ("'bee' at north", f"'{other}' at south", "merge-classes=true"):
        assert part in str(asked.value)
    assert not list((hospitals.folder / "run" / "checkpoints").glob("*/round-*"))


def test_such_names_are_one_class_if_the_server_says_so(hospitals, capsys):
    renamed(hospitals, "south", "cat", "Cat")
    renamed(hospitals, "south", "bee", "BEE")
    renamed(hospitals, "south", "dog", "Dog")
    served = hospitals.serve(**{"merge-classes": True})
    assert "3 sites (north, south, west), 5 classes" in capsys.readouterr().out
    table = RunDirectory.open(hospitals.folder / "run").read_json("partition.json")
    assert table["classes"] == ["BEE", "Cat", "Dog", "ant", "eel"]
    assert not [client for client in table["clients"] if not sum(client["train"])]
    assert len(served.bundles) == 3


def test_a_site_maps_its_folders_by_classes_csv(hospitals):
    renamed(hospitals, "south", "cat", "Felis")
    (hospitals.domains / "south" / "classes.csv").write_text("folder,name\nFelis,cat\n")
    hospitals.serve()
    table = RunDirectory.open(hospitals.folder / "run").read_json("partition.json")
    assert table["classes"] == ["ant", "bee", "cat", "dog", "eel"]


@pytest.mark.parametrize("name", ["[/b]", r"$\bad$", "a|b", "<b>red</b>", " ".join(["word"] * 12)])
def test_names_of_classes_and_sites_break_no_report(hospitals, name):
    for site in ("north", "south"):
        renamed(hospitals, site, "bee", name.replace("/", "-"))
    hospitals.start(2, "west")
    hospitals.grid.nodes[2] = lying(hospitals.grid.nodes[2], lambda words: words["site"].update(domain=name))
    hospitals.serve({**OPTIONS, "rounds": 1})
    assert (hospitals.folder / "run" / "report.html").stat().st_size > 10_000


def test_a_site_counts_with_what_it_announced_whatever_it_claims_later(hospitals, tmp_path):
    options = {**OPTIONS, "method": "promptfl", "method_options": {"n_ctx": 2, "local_epochs": 1}}
    honest = hospitals.serve(options)
    well = hospitals.grid.nodes[0]

    def lies(content):
        answer = well(content)
        if codec.kind_of(content) != "Train":
            return answer
        envelope = codec.unpack(answer, messages.TrainAnswer)
        words = envelope.words.model_copy(update={"samples": 10**9})
        return codec.pack(words, envelope.started, shared=envelope.part("shared"))

    hospitals.grid.nodes[0] = lies
    lied = hospitals.serve(options, **{"run-dir": str(tmp_path / "lied")})
    assert lied.metrics["prompt_sha256"] == honest.metrics["prompt_sha256"]


def test_sites_protect_their_examples_and_the_report_has_the_epsilon_of_each(hospitals, tmp_path):
    terms = {"dp": "example", "epsilon": 4.0, "delta": 1e-3, "clip": 5.0, "clip_space": "features"}
    method = {"n_ctx": 2, "local_epochs": 1, "batch_size": "all"}
    options = {**OPTIONS, "method": "promptfl", "method_options": method, "baselines": None, "privacy_options": terms}
    first = hospitals.serve(options)
    [line] = first.metrics["privacy"]
    assert line.startswith("privacy: epsilon 4.00 (all 3 clients) at delta 0.001 for one example of one client")
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert promise["epsilon_of_client"] == dict.fromkeys("012", pytest.approx(4.0, rel=2e-3))
    assert promise["noise_source"].startswith("privacy.key of a site's state-dir")
    assert "epsilon of each client" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "privacy.key").exists()
    own = "Privacy: epsilon 4.00 at delta 0.001 for one example of this site, added or removed (2 releases;"
    assert own in next((tmp_path / "north").glob("*/prompt/README.md")).read_text()
    events = [json.loads(text) for text in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    of_clients = [event for event in events if event["event"] == "client"]
    assert {event["stage"] for event in of_clients} == {"promptfl", "zero_shot"}
    assert [event["loss"] for event in of_clients if event["stage"] == "promptfl"] == [None] * 6
    assert {site: site_status(tmp_path / site)["runs"][0]["releases"] for site in HELD} == dict.fromkeys(HELD, 2)

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "round-0002")
    again = hospitals.serve(options)
    assert again.metrics["prompt_sha256"] == first.metrics["prompt_sha256"], "sites answer from their disks"
    assert {site: site_status(tmp_path / site)["runs"][0]["releases"] for site in HELD} == dict.fromkeys(HELD, 2)
