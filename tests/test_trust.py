"""The user says where to connect and where keys are; files only say what they were made with."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from promptfed.commands.options import config_from
from promptfed.errors import ConfigError
from promptfed.trust import (
    admitted,
    check_cluster,
    default_key_variable,
    is_local_file,
    is_trusted,
    key_variable_of,
    normal_address,
    trust,
)


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPTFED_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://localhost:80/v1/", "http://127.0.0.1/v1"),
        ("HTTPS://Api.Example.com/v1", "https://api.example.com:443/v1"),
        ("http://[::1]:8080/ok/v1", "http://LOCALHOST:8080/ok/v1/"),
    ],
)
def test_two_ways_of_writing_an_address_are_one(one: str, other: str) -> None:
    assert normal_address(one) == normal_address(other)


def test_other_servers_are_others() -> None:
    names = ["http://a/v1", "https://a/v1", "http://a:81/v1", "http://a/v2", "http://a.b/v1"]
    assert len({normal_address(name) for name in names}) == len(names)


def test_an_address_is_used_after_the_user_named_it(own_config: Path) -> None:
    address = "http://10.0.0.9:8080/v1"
    with pytest.raises(ConfigError, match=r"the bundle names the server 'http://10.0.0.9:8080/v1'.*--trust-address"):
        admitted({"base_url": address}, "the bundle")
    used = admitted({"base_url": address, "api_key_env": "HOME"}, "the bundle", trust_address=True, strict=False)
    assert used == {"base_url": address, "api_key_env": None}
    assert admitted({"base_url": address + "/"}, "the run")["base_url"] == address + "/"
    assert stat.S_IMODE((own_config / "trusted_addresses.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("variable", ["HOME", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"])
def test_a_variable_is_used_only_where_the_user_named_it(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "https://example.com/v1"
    monkeypatch.setenv("MINE", "x")
    trust(address)
    with pytest.raises(ConfigError, match=f"names the environment variable '{variable}'"):
        admitted({"base_url": address, "api_key_env": variable}, "run 'x'")
    assert admitted({"base_url": address}, "run 'x'", api_key_env="MINE", base_url=address)["api_key_env"] == "MINE"
    assert key_variable_of(address) == "MINE"
    assert admitted({"base_url": address, "api_key_env": "MINE"}, "run 'x'")["api_key_env"] == "MINE"


def test_only_a_providers_own_address_has_a_usual_variable() -> None:
    assert default_key_variable("https://api.openai.com/v1") == "OPENAI_API_KEY"
    for address in ("http://api.openai.com/v1", "https://api.openai.com.example/", "https://api.openai.com@e.example/"):
        assert default_key_variable(address) is None
    assert default_key_variable(None) is default_key_variable("http://[") is None


def test_a_config_file_is_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B_KEY", "x")
    file = tmp_path / "c.yaml"
    file.write_text("task: blackbox-text\noracle: api\noracle_options: {base_url: 'http://a:1/v1', model: m}\n")
    with pytest.raises(ConfigError, match="names the server 'http://a:1/v1'"):
        config_from({}, file, None)
    assert config_from({"trust_address": True}, file, None).oracle_options["base_url"] == "http://a:1/v1"
    assert config_from({}, file, None).oracle_options["api_key_env"] is None
    config_from({"base_url": "http://b:1/v1", "api_key_env": "B_KEY"}, None, None)
    config_from({}, None, ["oracle.base_url=http://c:1/v1"])
    assert is_trusted("http://b:1/v1/")
    assert is_trusted("http://c:1/v1")
    assert key_variable_of("http://b:1/v1") == "B_KEY"


def test_a_cluster_runs_code_so_it_is_named_too(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("engine: ray\nray_address: 10.0.0.1:6379\n")
    with pytest.raises(ConfigError, match=r"Ray cluster '10.0.0.1:6379'"):
        config_from({}, file, None)
    config_from({"ray_address": "10.0.0.1:6379"}, file, None)
    assert config_from({}, file, None).ray_address == "10.0.0.1:6379"
    check_cluster("auto", "the run", None)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"addresses": 3}', '{"addresses": {"http://a:1/v1": 7}}'])
def test_a_damaged_memory_trusts_nobody_new(own_config: Path, damage: str) -> None:
    own_config.mkdir()
    (own_config / "trusted_addresses.json").write_text(damage)
    assert not is_trusted("http://b:1/v1")
    trust("http://b:1/v1")
    assert is_trusted("http://b:1/v1")
    assert json.loads((own_config / "trusted_addresses.json").read_text())


def test_files_are_told_from_names(tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    for name in (
        "/x/model",
        "./model",
        "~/m",
        str(tmp_path / "weights"),
        "open_clip:ViT-B-32//x/y.pt",
        "clip-hf:/x/y",
        "clip-hf:~/y",
        "a.safetensors",
    ):
        assert is_local_file(name), name
    for name in (
        "open_clip:ViT-B-32/openai",
        "clip-hf:openai/clip-vit-base-patch32",
        "google/gemma-3-270m",
        "tiny",
        "gpt2",
    ):
        assert not is_local_file(name), name


def test_a_key_in_the_place_of_its_variable_is_written_down_nowhere(own_config: Path) -> None:
    for key in ("sk_4f9ab7c2e1d8", "AKIAIOSFODNN7EXAMPLE", "gsk-12345678"):
        trust(f"http://me:{key}@127.0.0.1:1/v1", key)
        assert key not in (own_config / "trusted_addresses.json").read_text()
