"""Every option says where it belongs and how a run may go on with another value; the lists of options follow."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from promptfed.config import SECTIONS, RunConfig, build_config
from promptfed.deployment.server import FREE
from promptfed.experiment import MODEL_OPTIONS, TASK_OPTIONS
from promptfed.export.bundle import ABOUT_THE_MODEL
from promptfed.option import GROUPS, Option, changing, options_of, resumable
from promptfed.oracle_options import OracleOptions
from promptfed.resolve import resolve
from promptfed.runs.journal import MAY_CHANGE, MOVED, ORACLE_MAY_CHANGE
from promptfed.same_options import what_counts


@pytest.mark.parametrize("model", [RunConfig, OracleOptions])
def test_every_option_has_a_marker_and_says_what_it_is(model):
    assert list(options_of(model)) == list(model.model_fields)
    for name, field in model.model_fields.items():
        assert field.description, name
        assert not field.description.endswith("."), name


def test_a_field_without_a_marker_and_an_unknown_group_are_refused():
    class Odd(BaseModel):
        lr: float = 1.0

    with pytest.raises(TypeError, match=r"Odd\.lr has no Option"):
        options_of(Odd)
    with pytest.raises(ValueError, match="option group 'rest' is none of task, "):
        Option("rest")
    assert {option.group for option in options_of(RunConfig).values()} <= set(GROUPS)


def test_the_options_of_data_and_model():
    task = "task data data_root clients shots partition alpha partition_seed strict task_options"
    assert set(TASK_OPTIONS) == set(task.split())
    assert set(MODEL_OPTIONS) == {"backbone", "oracle", "oracle_options", "device", "precision"}
    assert set(SECTIONS) == {name for name in RunConfig.model_fields if name.endswith("_options")}


def test_what_a_run_may_go_on_with():
    place = {"engine", "actors", "ray_address", "client_seconds", "round_seconds", "threads", "device", "strict"}
    place |= {"measures", "validate_clients", "load_threads", "report_samples"}
    assert {*place, "rounds", "plugins"} == MAY_CHANGE
    assert {"backbone"} == MOVED
    assert {*place, "plugins"} == set(FREE)
    assert {*place, "rounds", "backbone"} == set(resumable(RunConfig))
    limits = {"api_key_env", "max_calls", "max_tokens", "max_usd", "base_url"}
    rates = {"concurrency", "requests_per_minute", "tokens_per_minute", "timeout_seconds", "retries"}
    rates |= {"backoff_seconds", "retry_after_seconds", "most_unanswered", "most_left_out"}
    assert limits | rates == ORACLE_MAY_CHANGE == set(resumable(OracleOptions))
    assert changing(OracleOptions, "moved") == ("base_url",)


def test_what_counts_in_a_comparison():
    options = {"max_calls": 5, "base_url": "http://a/v1", "concurrency": 2}
    counted = what_counts(build_config({"oracle": "api", "oracle_options": options}))
    assert counted["oracle_options"] == {"base_url": "http://a/v1"}
    assert set(RunConfig.model_fields) - set(counted) == set(changing(RunConfig, "free"))


def test_a_bundle_says_what_the_model_is_and_nothing_of_the_user():
    assert set(ABOUT_THE_MODEL) == {
        "base_url", "model", "served_model", "mode", "scoring", "top_logprobs", "choice_tokens", "soft_dim", "soft_std",
        "prompt_cache", "side", "usd_per_million_prompt_tokens", "usd_per_million_completion_tokens",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "partition"),
    [
        ({"clients": 24}, "classes"),
        ({"clients": 25}, "auto"),
        ({"clients": 25, "partition": "classes"}, "classes"),
        ({"clients": 25, "task_options": {"base_fraction": 1}}, "classes"),
    ],
)
def test_more_clients_than_icons_have_classes_share_them(options, partition):
    assert resolve(build_config(options)).partition == partition
