"""Cells of one's own: files say what the log says, and a wrong line is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from promptfed.allocation.cell import make_trace
from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.tasks import TASKS
from promptfed.tasks.sources.cell_files import COLUMNS, read_cells
from promptfed.tasks.sources.cells import logged, region


def written(folder: Path, cells: int = 3, steps: int = 12) -> Path:
    """Write made-up cells as a user would, the first with a log of two episodes."""
    made = region(cells, 0.3, 0)
    table = [
        {
            "name": cell.name, "preferred": cell.preferred.tolist(), "snr": cell.snr.tolist(),
            "gaze": cell.gaze.tolist(), "rate": cell.rate,
        }
        for cell in made
    ]  # fmt: skip
    (folder / "cells.json").write_text(json.dumps(table))
    with (folder / "cell 0.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["episode", *COLUMNS])
        for episode, log in enumerate(logged(made[0], [5, 6], steps)):
            trace = make_trace(made[0], steps, 5 + episode)
            for slot in range(steps):
                row = [log.rewards[slot], *trace.tiles[slot].ravel(), *trace.change[slot], *log.actions[slot]]
                out.writerow([episode, *row])
    return folder


def test_what_was_logged_is_read_again(tmp_path: Path) -> None:
    cells = read_cells(str(written(tmp_path)))
    (cell, logs), (_, nothing), _ = cells
    made = region(3, 0.3, 0)[0]
    assert np.array_equal(cell.preferred, made.preferred)
    assert nothing is None
    for log, expected in zip(logs, logged(made, [5, 6], 12), strict=True):
        assert np.allclose(log.observations, expected.observations, atol=1e-6)
        assert np.allclose(log.actions, expected.actions, atol=1e-6)
        assert np.allclose(log.rewards, expected.rewards)


def test_the_task_takes_them_and_says_who_has_no_log(tmp_path: Path) -> None:
    options = {"episodes": 3, "steps": 12, "val_episodes": 1, "test_episodes": 1, "held_out": 1}
    data = f"cells:{written(tmp_path)}"
    task = TASKS["allocation"].build(build_config({"task": "allocation", "data": data, "task_options": options}))
    assert [len(client.train) for client in task.clients] == [2, 3]
    assert task.notes == ("2 cells have no log: an expert, one with errors or chance acts in them",)
    with pytest.raises(ConfigError, match=r"task\.held_out=0"):
        TASKS["allocation"].build(
            build_config({"task": "allocation", "data": data, "clients": 3, "task_options": options})
        )
    with pytest.raises(ConfigError, match="needs two at least"):
        TASKS["allocation"].build(
            build_config({"task": "allocation", "data": data, "task_options": {**options, "held_out": 2}})
        )


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("reward", "3.5", "line 4 has a reward of 3.5: rewards are QoE, -1.2 to 1"),
        ("reward", "nan", "line 4, column 'reward' is 'nan', which is no number"),
        ("tiles_0", "99", "line 4: each user has 24 tiles in all"),
        ("index_3", "7", "line 4: the first 12 numbers of an action are indices"),
        ("share_1", "2", "line 4: the last 4 numbers of an action are shares"),
        ("change_1", "loud", "line 4, column 'change_1' is 'loud', which is no number"),
    ],
)
def test_a_wrong_number_is_named_with_its_line(tmp_path: Path, column: str, value: str, words: str) -> None:
    file = written(tmp_path) / "cell 0.csv"
    rows = list(csv.DictReader(file.open()))
    rows[2][column] = value
    with file.open("w", newline="") as out:
        table = csv.DictWriter(out, rows[0])
        table.writeheader()
        table.writerows(rows)
    with pytest.raises(DataError, match=words) as error:
        read_cells(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "cannot read"),
        ('[{"name": "a"}]', "cell 1, preferred: field required; the file is a list of cells with name, preferred"),
        ("{}", "the file is a list of cells"),
    ],
)
def test_a_wrong_list_of_cells_gets_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "cells.json").write_text(text)
    with pytest.raises(DataError, match=words) as error:
        read_cells(str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="cannot read"):
        read_cells(str(tmp_path / "nowhere"))


def test_names_and_columns_are_checked(tmp_path: Path) -> None:
    folder = written(tmp_path)
    table = json.loads((folder / "cells.json").read_text())
    (folder / "cells.json").write_text(json.dumps([*table, table[0]]))
    with pytest.raises(DataError, match="has cell 'cell 0' twice"):
        read_cells(str(folder))
    (folder / "cells.json").write_text(json.dumps([{**table[0], "name": "../up"}]))
    with pytest.raises(DataError, match="name"):
        read_cells(str(folder))
    (folder / "cells.json").write_text(json.dumps(table))
    (folder / "cell 0.csv").write_text("episode,reward\n0,0.5\n")
    with pytest.raises(DataError, match="has no column 'tiles_0'"):
        read_cells(str(folder))
