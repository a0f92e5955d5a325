"""The README of a generated app names what this very app needs."""

from __future__ import annotations

import re

import pytest
import typer

pytest.importorskip("flwr")

from promptfed.cli import app
from promptfed.config import build_config
from promptfed.deployment.readme import extras_of, readme
from promptfed.deployment.server import checked

USUAL = {"data": "sites", "clients": 3, "rounds": 2}
TEXTS = {"task": "text-classification", "method": "fedprompt"}
SECURE = {"privacy_options": {"secure_aggregation": True, "clip": 1.0}}
NOISE = {"dp": "example", "epsilon": 8.0, "delta": 1e-4, "clip": 1.0}
EXAMPLE = {"privacy_options": NOISE, "method_options": {"batch_size": "all"}}


def text_of(tmp_path, **options):
    config = checked(build_config({**USUAL, **options}))
    return readme(config, folder=tmp_path / "app", run_dir=tmp_path / "run", sites=3, version="0.2.0")


@pytest.mark.parametrize(
    ("options", "extras"),
    [
        ({"backbone": "tiny"}, "flower"),
        ({"backbone": "lit"}, "lit,flower"),
        ({**TEXTS, "backbone": "lm:minilm"}, "flower"),
        ({**TEXTS, "backbone": "lm:gemma"}, "gemma,flower"),
        ({"backbone": "tiny", **SECURE}, "flower,secure"),
        ({"backbone": "lit", **EXAMPLE}, "lit,flower,dp"),
    ],
)
def test_the_extras_are_those_of_the_run(options, extras):
    assert ",".join(extras_of(build_config({**USUAL, **options}))) == extras


def test_it_is_about_this_run(tmp_path):
    text = text_of(tmp_path, backbone="lit", **SECURE)
    assert "pip install 'promptfed[lit,flower,secure]==0.2.0'" in text
    assert "site identity --state-dir" in text.replace("\n", " ")
    assert "max-epsilon" not in text
    text = text_of(tmp_path, backbone="tiny", **EXAMPLE)
    assert "max-epsilon=8" in text
    assert "it cannot show what its examples have spent" in text
    assert "site\nidentity" not in text


def test_it_says_how_to_end_and_what_to_keep(tmp_path):
    text = text_of(tmp_path, backbone="tiny")
    for words in ("flwr stop RUN_ID ours", "SIGTERM", "keep-process-seconds=60", "its state-dir, all but `process/`"):
        assert words in text
    assert all(len(line) <= 120 or "--node-config" in line or str(tmp_path) in line for line in text.splitlines())


def test_keys_stay_out_of_the_app(tmp_path):
    text = text_of(tmp_path, backbone="tiny")
    assert "not in this app's:\n\n    mkdir -p keys" in text
    assert re.search(r"config.toml <<END\n.*root-certificates = \"\$PWD/keys/ca.crt\"\n    END\n", text, re.S)
    assert str(tmp_path / "app" / "keys") not in text


def test_its_commands_and_flags_exist(tmp_path):
    text = text_of(tmp_path, backbone="lit").replace("\\\n", " ")
    group = typer.main.get_command(app)
    lines = re.findall(r"^    promptfed (.+)$", text, re.M)
    assert len(lines) >= 5
    for line in lines:
        command, words = group, line.split()
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {flag for parameter in command.params for flag in parameter.opts}
        used = {word for word in words if re.fullmatch(r"--[a-z-]+", word)}
        assert used <= known, line
