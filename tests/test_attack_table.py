from __future__ import annotations

import json

import pytest

from promptfed.attack_cells import Cell
from promptfed.attack_table import attack_of, attack_table, cell_text, markdown, told
from promptfed.config import build_config
from promptfed.errors import ConfigError


def test_an_attack_is_named_with_its_options():
    assert attack_of("alie:z=1.5:knows=group")["z"] == 1.5
    assert attack_of("alie:z=1.5:knows=group")["knows"] == "group"
    with pytest.raises(ConfigError, match="signflip"):
        attack_of("signflop")
    with pytest.raises(ConfigError, match="z"):
        attack_of("alie:y=1")


def test_a_rule_is_told_what_it_has_an_option_for():
    assert told("mean", [1, 4], range(10)) == {}
    assert told("krum", [1, 4], range(10)) == {"byzantine": 2}
    assert told("trimmed_mean", [1, 4], range(10)) == {"trim": 0.2}
    assert told("fltrust", [0, 1], range(10)) == {"root": 2}


def test_cells_in_per_cent():
    cells = [Cell("none", "mean", 0.5), Cell("backdoor", "mean", 0.467, 0, 0.735, 0.002), Cell("none", "krum", None)]
    assert list(map(cell_text, cells)) == ["50.0", "46.7, ASR 73.5 (0.2)", "-"]
    cells.append(Cell("backdoor", "krum", 0.4))
    assert markdown(cells) == (
        "| attack | `mean` | `krum` |\n|---|---:|---:|\n"
        "| none | 50.0 | - |\n| backdoor | 46.7, ASR 73.5 (0.2) | 40.0 |\n"
    )


@pytest.mark.parametrize(
    ("attacks", "rules", "why"), [([], ["mean"], "one attack"), (["zero"], ["meen"], "mean"), (["zero"], [], "one")]
)
def test_names_are_checked_before_anything_runs(attacks, rules, why):
    with pytest.raises(ConfigError, match=why):
        attack_table(build_config({}), attacks, rules, 0.2)


@pytest.mark.slow
def test_a_table_repeats_and_says_why_a_cell_is_empty():
    config = build_config({"clients": 4, "rounds": 2, "shots": 2, "method_options": {"n_ctx": 2}})
    made = [attack_table(config, ["signflip", "backdoor"], ["mean", "krum"], 0.3) for _ in range(2)]
    assert made[0] == made[1]
    by_pair = {(cell.attack, cell.rule): cell for cell in made[0]}
    assert by_pair["none", "mean"].base > 0.1
    assert by_pair["backdoor", "mean"].asr is not None
    assert "needs 5 updates" in by_pair["none", "krum"].problem  # of 4 clients, 1 malicious


@pytest.mark.slow
def test_a_stopped_table_goes_on_to_the_same_figures(tmp_path):
    config = build_config({"clients": 5, "rounds": 2, "shots": 2, "method_options": {"n_ctx": 2}})
    attacks, rules, saved = ["zero", "backdoor"], ["mean", "median"], tmp_path / "attacks.json"
    whole = attack_table(config, attacks, rules, 0.2)

    def stop(cell):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack_table(config, attacks, rules, 0.2, on_cell=stop, saved=saved)
    kept = json.loads(saved.read_text())["cells"]
    assert [cell["attack"] for cell in kept] == ["none", "zero", "backdoor"]
    # The last cell is lost, too: a backdoor is measured against the clean prompt, which is trained anew.
    saved.write_text(json.dumps({**json.loads(saved.read_text()), "cells": kept[:2]}))
    assert attack_table(config, attacks, rules, 0.2, saved=saved) == whole
    assert len(json.loads(saved.read_text())["cells"]) == 6
