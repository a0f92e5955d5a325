"""A run in trackio's SQLite store, read back with trackio and with sqlite3."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trackio")
pytestmark = pytest.mark.slow
RUN = """
import json, sys
import promptfed as pf
options = {"clients": 2, "shots": 1, "threads": 1, "baselines": ()}
options |= {"task_options": {"test_per_class": 2, "val_shots": 1}}
pf.train(folder="run", rounds=1, progress=False, observers={"trackio": {"project": "prompts"}}, **options)
run = pf.load_run("run").resume(rounds=2, progress=False, observers={"trackio": {"project": "prompts"}})
print(json.dumps([event["loss"] for event in run.events if event["event"] == "round"]))
"""


def test_a_run_and_its_continuation_are_one_record(tmp_path: Path) -> None:
    """In a process of its own, as trackio reads TRACKIO_DIR when it is imported."""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "store")}
    command = [sys.executable, "-P", "-c", RUN]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout)  # trackio's own lines are not in it
    with sqlite3.connect(tmp_path / "store" / "prompts.db") as store:
        rows = store.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    assert {row[0][:4] for row in rows} == {"run-"}
    assert len({row[0] for row in rows}) == 1
    figures = [(step, json.loads(metrics)) for _, step, metrics in rows]
    assert {step: row["promptfl/loss"] for step, row in figures if "promptfl/loss" in row} == dict(enumerate(losses, 1))
    assert any("promptfl/client_1/loss" in row for _, row in figures)
    assert any("promptfl/test/base" in row for step, row in figures if step == 2)
    assert any("results" in row for _, row in figures)
