"""The ClientApp, without Flower's processes."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

pytest.importorskip("flwr")

from promptfed.deployment import client, codec
from promptfed.deployment.kept_process import DiedError, KeptProcess, NoProcessError
from promptfed.deployment.messages import ErrorReply, Hello
from promptfed.errors import DeploymentError

QUESTION = Hello(run="0" * 32, simulated=True, config={}, classes=None, fingerprint="f" * 64, promptfed="0.0.1")


def reason(answer):
    """Why there is no answer, in the words of the server."""
    with pytest.raises(DeploymentError) as caught:
        codec.unpack(answer, ErrorReply)
    return str(caught.value)


def test_it_loads_nothing_heavy():
    code = "import sys, promptfed.deployment.client; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "flwr.app" in loaded
    assert not {"torch", "pydantic", "open_clip", "transformers", "promptfed.deployment.codec"} & set(loaded)


def test_without_a_kept_process_the_question_is_answered_here(tmp_path, capsys):
    words = {"state-dir": str(tmp_path), "keep-process-seconds": 0}
    assert "neither data=" in reason(client.answered(codec.pack(QUESTION), words, time.monotonic()))
    assert capsys.readouterr().out.startswith("error: this node's --node-config has neither")
    assert not (tmp_path / "process").exists()


def test_where_none_can_be_kept_a_note_says_why(tmp_path, monkeypatch, capsys):
    def ask(self, question, began):
        raise NoProcessError("it cannot be started")

    monkeypatch.setattr(KeptProcess, "ask", ask)
    answer = client.answered(codec.pack(QUESTION), {"state-dir": str(tmp_path)}, time.monotonic())
    assert "neither data=" in reason(answer)
    assert "note: this site keeps no process: it cannot be started" in capsys.readouterr().err


def test_a_question_that_its_process_does_not_survive_is_refused_in_a_line(tmp_path, monkeypatch):
    def ask(self, question, began):
        raise DiedError("the process of this site ended 3 times")

    monkeypatch.setattr(KeptProcess, "ask", ask)
    answer = client.answered(codec.pack(QUESTION), {"state-dir": str(tmp_path)}, time.monotonic())
    assert reason(answer) == "the process of this site ended 3 times"


def test_what_a_kept_process_answers_is_handed_on(tmp_path, monkeypatch):
    from promptfed.deployment.site_process import site_answers

    asked = []

    def ask(self, question, began):
        asked.append((self.folder, began))
        return site_answers({"state-dir": str(tmp_path)})(question, began)

    monkeypatch.setattr(KeptProcess, "ask", ask)
    answer = client.answered(codec.pack(QUESTION), {"state-dir": str(tmp_path)}, 5.0)
    assert "neither data=" in reason(answer)
    assert asked == [(tmp_path / "process", 5.0)]
