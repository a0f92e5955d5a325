"""`promptfed flower init`, `promptfed site check` and `promptfed site export` at the command line."""

from __future__ import annotations

import json
import sys
import tomllib

import pytest

from promptfed.config import build_config, read_yaml

pytest.importorskip("flwr")


def test_init_writes_an_app_that_flower_can_build(promptfed, tmp_path):
    app = tmp_path / "hospitals"
    said = promptfed("flower", "init", app, "--data", "sites", "--clients", 3, "--method", "fedper", "--min-sites", 2)
    assert said.code == 0, said.err
    assert "README.md" in said.out
    project = tomllib.loads((app / "pyproject.toml").read_text())
    flower = project["tool"]["flwr"]["app"]
    assert flower["config"]["min-sites"] == 2
    assert flower["config"]["run-dir"] == str(tmp_path / "hospitals-run")
    config = build_config(read_yaml(app / "federation" / "config.yaml"))
    assert (config.data, config.clients, config.method, config.baselines) == ("sites", 3, "fedper", ("zero_shot",))
    readme = (app / "README.md").read_text()
    for word in ("FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1", "--disable-runtime-dependency-installation",
                 "flwr supernode register", "promptfed site check", 'site="SITE_NAME"'):  # fmt: skip
        assert word in readme
    for name in ("server", "client"):
        text = (app / "federation" / f"{name}.py").read_text()
        assert len(text.splitlines()) < 12, "a few lines that call promptfed"
        compile(text, name, "exec")
    sys.path.insert(0, str(app))
    try:
        from federation.client import app as client_app
        from federation.server import app as server_app
    finally:
        sys.path.remove(str(app))
    assert type(client_app).__name__ == "ClientApp"
    assert type(server_app).__name__ == "ServerApp"
    from flwr.cli.build import build_fab_from_disk

    assert len(build_fab_from_disk(app)) < 20_000


@pytest.mark.parametrize(
    "name", ["my app", "1app", "app_x", "-app", "a.b", "x" * 33, "app\x1b[31m", "hôpitaux", "A-1", "a", "x" * 32, "9"]
)
def test_the_name_of_an_app_is_one_that_flower_builds_or_is_refused_at_once(promptfed, tmp_path, name):
    from flwr.cli.utils import is_valid_name

    app = tmp_path / name
    said = promptfed("flower", "init", app, "--clients", 2)
    if is_valid_name(name)[0]:
        from flwr.cli.build import build_fab_from_disk

        assert said.code == 0, said.err
        assert len(build_fab_from_disk(app)) > 100
    else:
        assert said.code == 2
        assert "begin with a letter" in said.err
        assert "\x1b" not in said.err
        better = said.err.rpartition("; '")[2].partition("'")[0]
        assert is_valid_name(better)[0]
        assert not app.exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--data", "sites"], "--clients N"),
        (["--classes", "cat," + "x" * 65], "65 characters"),
        (["--task", "blackbox-text"], "black box"),
        (["--method", "promptfll"], "promptfl"),
        (["--data", "sites", "--clients", "2", "--min-sites", "3"], "more than the 2 sites"),
    ],
)
def test_what_cannot_work_is_said_and_nothing_is_written(promptfed, tmp_path, words, why):
    said = promptfed("flower", "init", tmp_path / "app", *words)
    assert said.code == 2
    assert why in said.err
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize(("share", "trained"), [("0.5", 0.5), ("0.25", 0.75), ("0", 1.0)])
def test_classes_can_be_held_out_from_the_sites(promptfed, tmp_path, share, trained):
    words = ["--data", "sites", "--clients", 3, "--hold-out-classes", share]
    assert promptfed("flower", "init", tmp_path / "app", *words).code == 0
    config = build_config(read_yaml(tmp_path / "app" / "federation" / "config.yaml"))
    assert config.task_options["base_fraction"] == trained


def test_a_folder_with_something_in_it_is_left_alone(promptfed, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    said = promptfed("flower", "init", tmp_path)
    assert said.code == 2
    assert "not an empty folder" in said.err


def test_site_check_says_what_it_found_and_fails_if_anything_does(promptfed, tmp_path):
    words = f'site="north" data="folder:{tmp_path / "none"}" state-dir="{tmp_path / "state"}"'
    said = promptfed("site", "check", "--node-config", words)
    assert said.code == 2
    assert "FAIL data: data folder" in said.out
    assert "ok   backbone: 'tiny' loads" in said.out
    assert "1 of the checks failed" in said.err


def test_site_export_without_anything_to_export(promptfed, tmp_path):
    said = promptfed("site", "export", "--state-dir", tmp_path, "--out", tmp_path / "out")
    assert said.code == 2
    assert "keeps nothing of any run" in said.err


def test_what_sites_print_of_themselves_is_a_file_of_pins(promptfed, tmp_path):
    from promptfed.deployment.site_identities import own_identity, pinned_identities
    from promptfed.privacy.channel_keys import identity_fingerprint

    names, file = ("north", "the south"), tmp_path / "pins"
    file.write_text("".join(promptfed("site", "identity", "--state-dir", tmp_path / n, "--site", n).out for n in names))
    expected = {name: identity_fingerprint(own_identity(tmp_path / name).public) for name in names}
    assert pinned_identities(file) == expected
    said = promptfed("site", "identity", "--state-dir", tmp_path / "north", "--json").out
    assert json.loads(said) == {"identity": expected["north"]}
    quiet = promptfed("site", "identity", "--state-dir", tmp_path / "north", "--site", "north", "--quiet").out
    assert quiet.strip() == expected["north"]
    words = f'site="north" data="folder:/none" state-dir="{tmp_path / "north"}" identities="{file}"'
    assert f"identities: {file} pins 2 sites" in promptfed("site", "check", "--node-config", words).out
