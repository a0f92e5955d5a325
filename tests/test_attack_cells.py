from __future__ import annotations

import json

import pytest

from promptfed.attack_cells import Cell, SavedCells
from promptfed.config import build_config
from promptfed.errors import ConfigError, FormatError


def config(**options):
    return build_config({"clients": 4, "rounds": 2, **options})


def test_cells_come_back_by_seed_rule_and_attack(tmp_path):
    path = tmp_path / "attacks.json"
    saved = SavedCells(path, config(), 0.2)
    backdoor = Cell("backdoor", "mean", 0.467, 3, 0.735, 0.002)
    saved.add(0, Cell("none", "mean", 0.5))
    saved.add(1, backdoor)
    again = SavedCells(path, config(), 0.2)
    assert again.get(0, "mean", "none") == Cell("none", "mean", 0.5)
    assert again.get(1, "mean", "backdoor") == backdoor
    assert again.get(0, "mean", "backdoor") is None


def test_a_cell_without_a_figure_is_tried_again(tmp_path):
    path = tmp_path / "attacks.json"
    saved = SavedCells(path, config(), 0.2)
    saved.add(0, Cell("none", "krum", None, problem="krum needs 5 updates"))
    saved.add(0, Cell("none", "mean", 0.5))
    assert saved.get(0, "krum", "none").problem
    assert SavedCells(path, config(), 0.2).get(0, "krum", "none") is None


def test_only_the_seed_and_the_place_of_the_work_may_differ(tmp_path):
    path = tmp_path / "attacks.json"
    SavedCells(path, config(), 0.2).add(0, Cell("none", "mean", 0.5))
    SavedCells(path, config(seed=1, partition_seed=1, threads=1), 0.2)
    with pytest.raises(ConfigError, match="rounds: 2, now 3"):
        SavedCells(path, config(rounds=3), 0.2)
    with pytest.raises(ConfigError, match=r"malicious: 0.2, now 0.3"):
        SavedCells(path, config(), 0.3)
    with pytest.raises(ConfigError, match="partition_seed"):
        SavedCells(path, config(partition_seed=1), 0.2)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"options": 1, "cells": [{}]}', '{"options": {}, "cells": 3}'])
def test_another_file_is_refused_in_a_line(tmp_path, content):
    path = tmp_path / "attacks.json"
    path.write_text(content)
    with pytest.raises(FormatError, match="no file of an attack table"):
        SavedCells(path, config(), 0.2)


def test_without_a_path_nothing_is_written(tmp_path):
    SavedCells(None, config(), 0.2).add(0, Cell("none", "mean", 0.5))
    assert json.loads(json.dumps(Cell("none", "mean", 0.5).recorded()))["base"] == 0.5
    assert not list(tmp_path.iterdir())
