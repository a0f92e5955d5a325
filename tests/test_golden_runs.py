"""Small runs of every kind end with the prompts and figures that are on record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "golden_runs.py"


@pytest.mark.slow
def test_golden_runs_are_as_recorded() -> None:
    pytest.importorskip("ray")
    done = subprocess.run([sys.executable, "-P", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "are as recorded" in done.stdout
