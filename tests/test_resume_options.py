"""A run goes on with other options only as far as they say of themselves that it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptfed.config import RunConfig, build_config
from promptfed.errors import ConfigError
from promptfed.oracle_options import OracleOptions
from promptfed.resume_options import resumed
from promptfed.runs.journal import differences

RUN = Path("runs/one")


def go_on(before: RunConfig, **changes: object) -> RunConfig:
    return resumed(before, changes, RUN, print)


def test_place_budget_and_rounds_change_together():
    before = build_config(
        {"oracle": "minilm", "rounds": 2, "engine": "ray", "actors": 2, "oracle_options": {"rows": 1}}
    )
    after = go_on(
        before, rounds=5, engine="local", device="cuda", threads=2, round_seconds=9, oracle_options={"max_calls": 7}
    )
    assert (after.rounds, after.engine, after.actors, after.device, after.threads) == (5, "local", None, "cuda", 2)
    assert (after.round_seconds, after.oracle_options["max_calls"], after.oracle_options["rows"]) == (9, 7, 1)


def test_what_may_change_is_what_the_event_log_lets_pass():
    """Two lists disagreed here: a Flower server took another --round-seconds, and then refused to go on."""
    before = build_config({"oracle_options": OracleOptions().model_dump()})
    after = before.model_copy(update={"round_seconds": 9.0, "strict": True, "client_seconds": 1.0, "rounds": 30})
    options = {**before.oracle_options, "concurrency": 2, "max_usd": 1.0, "base_url": "http://127.0.0.1:9/v1"}
    after = after.model_copy(update={"oracle_options": options})
    assert differences(before.model_dump(mode="json"), after.model_dump(mode="json")) == ""
    elsewhere = before.model_copy(update={"backbone": "open_clip:x/y"}).model_dump(mode="json")
    assert "backbone was 'tiny'" in differences(before.model_dump(mode="json"), elsewhere)
    assert differences(before.model_dump(mode="json"), elsewhere, knows_backbone=True) == ""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"shots": 3, "alpha": 1}, "with other values of alpha, shots: it may change backbone, rounds, "),
        ({"plugins": {}}, "with other values of plugins"),
        ({"oracle_options": {"model": "other"}}, "with other values of model"),
        ({"rounds": 2}, "has 2 rounds already; give a larger number"),
        ({"rounds": "many"}, "option 'rounds' is 'many'"),
        ({"threads": 0}, "option 'threads' is 0"),
        ({"oracle_options": {"max_calls": 7}}, "asks no black box"),
    ],
)
def test_all_else_is_refused_in_one_line(changes, text):
    with pytest.raises(ConfigError, match=text) as caught:
        go_on(build_config({"rounds": 2}), **changes)
    assert "\n" not in str(caught.value)


def test_without_changes_a_run_goes_on_as_it_was():
    before = build_config({"engine": "ray", "actors": 2})
    assert go_on(before) == before
