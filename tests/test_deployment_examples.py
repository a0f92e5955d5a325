"""The files of examples/deployment: they parse, and every command and flag in them exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from promptfed.cli import app
from promptfed.config import build_config

FOLDER = Path(__file__).parents[1] / "examples" / "deployment"
if not FOLDER.is_dir():
    pytest.skip("needs the checkout", allow_module_level=True)
SCRIPTS = sorted(FOLDER.glob("*.sh"))
COMPOSE, KUBERNETES = sorted(FOLDER.glob("*.compose.yaml")), sorted(FOLDER.glob("*.kubernetes.yaml"))


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def container_commands():
    """(file, words) of every container."""
    for path in COMPOSE:
        for service in documents(path)[0]["services"].values():
            yield path.name, service["command"]
    for path in KUBERNETES:
        for one in documents(path):
            for container in one["spec"].get("template", {}).get("spec", {}).get("containers", []):
                yield path.name, container["args"]


def comment_commands():
    """(file, words) of every command that a comment of a YAML file tells the user to type in a container."""
    for path in (*COMPOSE, *KUBERNETES):
        for line in path.read_text().splitlines():
            if found := re.search(r"#.* (?:--|exec server) (flwr .+)$", line):
                yield path.name, shlex.split(found[1])


def script_commands():
    """(file, words) of every call of promptfed and ray in a script."""
    for path in SCRIPTS:
        text = path.read_text().replace("\\\n", " ")
        text = re.sub(r"(?m)^ *#.*$", "", text)
        for words in re.findall(r"words=\((.+?)\)\n", text, re.S):
            yield path.name, ["promptfed", *shlex.split(words.replace("\n", " "))]
        for line in re.findall(r"(?m)(?:^| )((?:promptfed(?= [a-z])|ray (?:start|stop)).*)$", text):
            yield path.name, shlex.split(line.removesuffix("&"))


def flags_of(words):
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def check(group, words):
    """Assert that ``words`` name a command of ``group`` and flags of it."""
    command, rest = group, list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    known = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    assert flags_of(rest) <= known, words


@pytest.mark.parametrize(("file", "words"), [*container_commands(), *comment_commands(), *script_commands()])
def test_commands_and_flags_exist(file, words):
    program, *rest = words
    if program == "promptfed":
        check(typer.main.get_command(app), rest)
        if "--node-config" in rest:
            from promptfed.deployment.node_words import parse_node_config

            assert {"site", "data", "state-dir"} == set(parse_node_config(rest[rest.index("--node-config") + 1]))
        return
    if program == "flower-superlink":
        flower = pytest.importorskip("flwr.superlink.cli.flower_superlink")
        assert flower._parse_args_run_superlink().parse_args(rest).database.startswith("/var/lib/promptfed/")
    elif program == "flwr":
        flower = pytest.importorskip("flwr.cli.app")
        check(typer.main.get_command(flower.app), rest)
    else:
        assert program == "ray"
        ray = pytest.importorskip("ray.scripts.scripts")
        check(ray.cli, rest)


def test_a_run_of_a_script_has_options_that_go_together():
    calls = [words for file, words in script_commands() if words[:2] == ["promptfed", "train"] and "--clients" in words]
    assert len(calls) == 3
    for words in calls:
        value = {flag: words[words.index(flag) + 1] for flag in ("--clients", "--rounds")}
        build_config({name.lstrip("-"): int(number) for name, number in value.items()})


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(path):
    bash = shutil.which("bash") or pytest.skip("bash is not here")
    assert subprocess.run([bash, "-n", path], capture_output=True, text=True, check=False).stderr == ""
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in path.read_text()


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_are_whole(path):
    [one] = documents(path)
    for service in one["services"].values():
        assert service["init"] is True
        for volume in service["volumes"]:
            source, target, *mode = volume.split(":")
            assert source[0] in "./" or source in one["volumes"]
            assert mode == ["ro"] or target == "/var/lib/promptfed"


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_files_are_whole(path):
    for one in documents(path):
        assert {"apiVersion", "kind", "metadata", "spec"} <= set(one)
        assert one["metadata"]["namespace"] == "promptfed"
        if one["kind"] == "StatefulSet":
            spec = one["spec"]
            pod = spec["template"]
            assert spec["replicas"] == 1
            assert spec["selector"]["matchLabels"] == pod["metadata"]["labels"]
            volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
            volumes |= {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
            for container in pod["spec"]["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_image_runs_as_no_root_and_calls_nobody():
    text = (FOLDER / "Dockerfile").read_text()
    steps = re.findall(r"(?m)^([A-Z]+) ", text)
    assert set(steps) <= {"FROM", "ARG", "RUN", "COPY", "ENV", "USER", "WORKDIR", "VOLUME", "CMD"}
    assert steps.index("USER") < steps.index("CMD")
    from promptfed.deployment.node import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        assert f"{name}={value}" in text
