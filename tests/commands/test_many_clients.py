"""More clients than a run holds: their partition and their personal prompts are files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from safetensors.torch import load_file

from promptfed.cache_dir import cache_folder
from promptfed.runs.checkpoint import load_checkpoint
from promptfed.tasks.client_index import FOLDER, MANY_CLIENTS

pytestmark = pytest.mark.slow
CLIENTS, ROUNDS, EACH = MANY_CLIENTS + 100, 5, 6
WORDS = (
    "--clients", str(CLIENTS), "--participation", str(EACH / CLIENTS), "--rounds", str(ROUNDS), "--shots", "1",
    "--baselines", "none", "--threads", "1", "--method", "local_only", "--set", "task.overlap=true",
    "--set", "task.val_shots=1", "--set", "task.test_per_class=1", "--set", "task.base_fraction=1",
    "--set", "task.classes_per_client=2", "--set", "method.n_ctx=1", "--set", "validate_clients=3",
)  # fmt: skip


def bits(folder):
    """The prompts after the last round: the shared one, and those of clients that took part."""
    state = load_checkpoint(folder / "checkpoints").state
    shared = load_file(folder / "checkpoints" / f"round-{ROUNDS:04}" / "state.safetensors")
    return {name: tensor.tolist() for name, tensor in shared.items()}, state.personal.versions


def command(pictures, folder):
    data = ("--data", f"folder:{pictures}", "--run", str(folder), "--quiet")
    return [sys.executable, "-P", "-m", "promptfed.cli", "train", *WORDS, *data]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of five pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(("cat", "dog", "elk")):
        (folder / name).mkdir()
        for number in range(5):
            Image.new("RGB", (3, 3), (80 * label, 50 * number, 0)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "run"
    subprocess.run(command(pictures, folder), check=True, stdout=subprocess.DEVNULL)
    return folder


def test_what_is_kept_does_not_grow_with_the_clients(undisturbed):
    drawn = {json.loads(line)["client"] for line in (undisturbed / "events.jsonl").open() if '"client"' in line[:20]}
    assert EACH < len(drawn) <= EACH * ROUNDS
    assert set(bits(undisturbed)[1]) == drawn
    folders = {path.name for path in (undisturbed / "checkpoints" / "personal").iterdir()}
    assert folders == {f"client-{client:05}" for client in drawn}, "no prompt of a client that never took part"
    assert list((cache_folder() / FOLDER).glob("*.safetensors"))


@pytest.mark.parametrize("moment", [3, 20])
def test_killed_and_resumed_it_ends_with_the_same_bits(undisturbed, pictures, tmp_path, promptfed, moment):
    folder = tmp_path / "killed"
    with subprocess.Popen(command(pictures, folder), env=os.environ, stdout=subprocess.DEVNULL) as process:
        events, deadline = folder / "events.jsonl", time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if events.exists() and events.read_text().count('"event": "client"') >= moment:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        process.wait()
    assert not (folder / "metrics.json").exists()
    assert promptfed("train", "--resume", folder, "--quiet").code == 0
    assert bits(folder) == bits(undisturbed)
    first, again = (json.loads((run / "metrics.json").read_text())["method"] for run in (undisturbed, folder))
    assert first == again
