"""`promptfed watch` from the command line: it prints one address, serves it, and ends with Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path


def test_it_prints_the_address_serves_it_and_ends_with_ctrl_c(finished: Path) -> None:
    words = [sys.executable, "-m", "promptfed", "watch", str(finished), "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = json.loads("".join(process.stdout.readline() for _ in range(3)))["address"]
        assert address.startswith("http://127.0.0.1:")
        part = ""
        while "finished" not in part:  # the first look may be under way
            with urllib.request.urlopen(f"{address}now", timeout=60) as answer:
                part = answer.read().decode()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert finished.name in part


def test_a_missing_folder_is_one_line(promptfed, tmp_path: Path) -> None:
    said = promptfed("watch", tmp_path / "none")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "is no folder" in said.err
