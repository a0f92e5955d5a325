"""A run goes on with the options that it was begun with, and one that is refused stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import promptfed as pf
from promptfed.config import RunConfig
from promptfed.option_defaults import section_defaults
from promptfed.runs.journal import differences, with_defaults


def test_options_that_an_earlier_version_did_not_have_are_no_change() -> None:
    now = {"rounds": 2, "seed": 1, "objects": {}, "processors": []}
    assert differences({"rounds": 2, "seed": 1}, now) == ""
    assert "processors was None" in differences({"rounds": 2, "seed": 1}, {**now, "processors": [{"clip": {}}]})
    assert "seed was 1 and is 2" in differences({"rounds": 2, "seed": 1}, {**now, "seed": 2})


def test_an_option_of_a_section_that_is_newer_than_the_run_had_its_default() -> None:
    defaults = section_defaults(RunConfig(method="promptfl"))
    assert (defaults["method_options"]["accumulate"], defaults["method_options"]["batch_size"]) == (1, "auto")
    recorded = {"method_options": {"lr": 0.02, "batch_size": 32}, "aggregator_options": {}}
    before = with_defaults(recorded, defaults)
    now = {**before, "method_options": {**defaults["method_options"], "lr": 0.02, "batch_size": 32}}
    assert differences(before, now) == ""
    now["method_options"]["accumulate"] = 2
    assert "method_options was" in differences(before, now)


def test_a_resume_that_is_refused_changes_no_file(tmp_path: Path) -> None:
    small = {"rounds": 1, "shots": 1, "clients": 2, "threads": 1, "task_options": {"test_per_class": 1, "val_shots": 1}}
    run = pf.train(folder=tmp_path / "run", baselines=[], progress=False, **small)
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.01", "lr: 0.02"))
    before = config.read_bytes()
    with pytest.raises(pf.PromptFedError, match="has changed since the run started: method_options"):
        pf.load_run(run.path).resume(rounds=3, progress=False)
    assert config.read_bytes() == before


@pytest.mark.parametrize("section", ["objects", "processors", "attack_options", "privacy_options"])
def test_a_run_of_an_earlier_version_has_nothing_in_a_section_that_it_did_not_know(section: str) -> None:
    assert differences({}, {section: {}}) == ""
    assert differences({}, {section: {"name": "signflip"}}) == f"{section} was None and is {{'name': 'signflip'}}"
