"""The whole flow of scripts/bench_gpu.py, on the CPU with small towers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_gpu.py"


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", str(SCRIPT), *options], capture_output=True, text=True)


@pytest.mark.slow
def test_the_table_is_printed() -> None:
    told = bench("--device", "cpu", "--small", "--no-compile")
    assert told.returncode == 0, told.stderr
    assert "| ViT-small float32 | largest difference from the CPU | 0.0e+00 |" in told.stdout
    for row in ("features, images/s", "promptfl, 1 side by side", "fedtpg, 2 side by side", "maple, 2", "plain loop"):
        assert told.stdout.count(f"| {row}") == 2, row
    assert "no time left" not in told.stdout
    assert "no time left" in bench("--device", "cpu", "--small", "--no-compile", "--limit", "0").stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so_in_one_line() -> None:
    told = bench()
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("error: device 'cuda' is not there: torch ")
    assert told.stderr.count("\n") == 1
