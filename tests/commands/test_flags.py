"""Flags come from the config models: all that there ever were are read, and help shows those that people type."""

from __future__ import annotations

import subprocess
import sys

import pytest

from promptfed.commands import options
from promptfed.commands.flags import MODELS, run_flags, with_flags
from promptfed.config import RunConfig
from promptfed.oracle_options import OracleOptions

# The flags of version 0.1, with a value each and the option that it sets.
FLAGS = {
    "--task": ("cot", "task", "cot"),
    "--method": ("fedtpg", "method", "fedtpg"),
    "--backbone": ("lit", "backbone", "lit"),
    "--data": ("folder:x", "data", "folder:x"),
    "--data-root": ("here", "data_root", "here"),
    "--oracle": ("gemma", "oracle", "gemma"),
    "--clients": ("3", "clients", 3),
    "--rounds": ("4", "rounds", 4),
    "--shots": ("5", "shots", 5),
    "--partition": ("iid", "partition", "iid"),
    "--alpha": ("0.1", "alpha", 0.1),
    "--participation": ("0.25", "participation", 0.25),
    "--aggregator": ("median", "aggregator", "median"),
    "--dropout": ("0.2", "dropout", 0.2),
    "--quorum": ("0.3", "quorum", 0.3),
    "--max-weight-share": ("0.4", "max_weight_share", 0.4),
    "--round-seconds": ("60", "round_seconds", 60),
    "--client-batch": ("2", "client_batch", 2),
    "--client-seconds": ("30", "client_seconds", 30),
    "--engine": ("ray", "engine", "ray"),
    "--actors": ("2", "actors", 2),
    "--ray-address": ("auto", "ray_address", "auto"),
    "--threads": ("1", "threads", 1),
    "--seed": ("6", "seed", 6),
    "--partition-seed": ("7", "partition_seed", 7),
    "--device": ("cuda", "device", "cuda"),
    "--precision": ("bfloat16", "precision", "bfloat16"),
    "--baselines": ("zero_shot,local_only", "baselines", ("zero_shot", "local_only")),
    "--base-url": ("http://127.0.0.1:9/v1", "oracle_options", {"base_url": "http://127.0.0.1:9/v1"}),
    "--model": ("m", "oracle_options", {"model": "m"}),
    "--api-key-env": ("KEY", "oracle_options", {"api_key_env": "KEY"}),
    "--max-calls": ("8", "oracle_options", {"max_calls": "8"}),
    "--max-tokens": ("9", "oracle_options", {"max_tokens": "9"}),
    "--max-usd": ("0.5", "oracle_options", {"max_usd": "0.5"}),
    "--hold-out-classes": ("0.25", "task_options", {"base_fraction": 0.75}),
}


@pytest.fixture
def config_of(monkeypatch, tmp_path, promptfed):
    """The config that a line of ``promptfed train`` makes, without the run."""
    monkeypatch.setattr("promptfed.trust.trust_folder", lambda: tmp_path)

    def read(*words: str) -> RunConfig:
        found: list[RunConfig] = []

        def keep(config: RunConfig) -> RunConfig:
            found.append(config)
            raise SystemExit(0)

        monkeypatch.setattr("promptfed.resolve.resolve", keep)
        assert promptfed("train", *words).code == 0
        return found[0]

    return read


def test_every_flag_sets_its_option(config_of):
    for flag, (text, option, value) in FLAGS.items():
        assert getattr(config_of(flag, text), option) == value, flag
    assert config_of("--strict").strict
    assert config_of("--baselines", "none").baselines == ()
    assert config_of("--baselines", "zero_shot", "--baselines", "local_only").baselines == ("zero_shot", "local_only")
    assert config_of().model_fields_set == set()


def test_a_flag_stands_above_the_file_and_set_above_both(config_of, tmp_path):
    (tmp_path / "c.yaml").write_text("rounds: 5\nshots: 2\n")
    config = config_of("--config", str(tmp_path / "c.yaml"), "--rounds", "6", "--set", "rounds=7", "--set", "quorum=1")
    assert (config.rounds, config.shots, config.quorum) == (7, 2, 1)


def test_every_option_of_a_run_has_a_flag_or_says_that_it_has_none():
    flags = set(run_flags())
    assert {f"--{name.replace('_', '-')}" for name in flags} >= {*FLAGS, "--strict"}
    without = {name for model in (RunConfig, OracleOptions) for name in model.model_fields} - flags
    assert without >= {"validate_every", "plugins", "method_options", "mode"}
    assert len({name for model in MODELS for name in model.model_fields}) == sum(len(m.model_fields) for m in MODELS)


def test_help_shows_what_people_type_in_sections_and_hides_the_rest(promptfed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    page = promptfed("train", "--help").out
    for title in ("Data and clients:", "Model and method:", "Training:", "Options:"):
        assert f"\n{title}\n" in page
    shown = {line.split()[0] for line in page.splitlines() if line.startswith("  --")}
    common = shown & {*FLAGS, "--strict"}
    assert 10 <= len(common) <= 15
    assert {"--task", "--method", "--rounds", "--seed"} <= common
    assert not {"--max-usd", "--quorum", "--trust-address"} & shown
    assert "Rounds of federation [20]." in page
    assert "--set KEY=VALUE" in page
    assert "promptfed list options" in " ".join(page.split())


def test_a_command_shows_all_of_the_few_flags_that_it_takes(promptfed):
    page = promptfed("tasks", "show", "--help").out
    assert {f"--{name.replace('_', '-')}" for name in run_flags("task")} <= set(page.split())


def test_a_text_of_a_commands_own_replaces_the_description(promptfed):
    assert "every site brings its own folder" in promptfed("flower", "init", "--help").out


def test_flags_that_nobody_typed_are_no_options():
    typed: list[dict[str, object]] = []

    @with_flags(("rounds", "baselines"))
    def command(flags: dict[str, object]) -> None:
        typed.append(flags)

    command(rounds=None, baselines=None)
    assert options.given(typed[0]) == {}


def test_the_command_line_loads_no_torch():
    code = "import sys, promptfed.cli; print([m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert "torch" not in said
    assert "numpy" not in said
