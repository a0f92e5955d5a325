"""No client outweighs the others of a round by more than --max-weight-share."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from promptfed.runs.directory import RunDirectory


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A folder of five domains, one of which holds most of the images."""
    root = tmp_path_factory.mktemp("uneven")
    for k in range(5):
        for label, name in enumerate(("cat", "dog", "eel") if k == 0 else ("cat", "dog")):
            folder = root / f"place {k}" / name
            folder.mkdir(parents=True)
            for i in range(16 if k == 0 else 3):
                Image.new("RGB", (16, 16), (40 * k, 15 * i, 90 * label)).save(folder / f"{i}.png")
    return ["--data", f"folder:{root}", "--partition", "domain", "--backbone", "tiny", "--rounds", 2, "--shots", 8,
            "--baselines", "none", "--threads", 1, "--set", "task.val_shots=1"]  # fmt: skip


@pytest.mark.parametrize("share", [None, 0.4, 0.45, 0.6, 0.1, 1])
def test_a_client_counts_for_no_more_than_its_share(promptfed, uneven, tmp_path, share):
    words = [] if share is None else ["--max-weight-share", share]
    said = promptfed("train", *uneven, *words, "--run", tmp_path / "run")
    assert said.code == 0, said.err
    events = RunDirectory.open(tmp_path / "run").events.read()
    samples = [e["samples"] for e in events if e["event"] == "client" and e["round"] == 1]
    own, others = samples[0], sum(samples[1:])
    bound = max(0.5 if share is None else share, 2 / 5)
    assert own / (own + others) > 0.6, "it is uneven"
    incidents = [e for e in events if e["event"] == "incident"]
    if bound == 1:
        assert incidents == []
        return
    assert [(e["kind"], e["client"], e["round"]) for e in incidents] == [("limited", 0, 1), ("limited", 0, 2)]
    counted, of = map(int, re.findall(r"with (\d+) samples of its (\d+)", incidents[0]["why"])[0])
    assert of == own
    assert counted == int(bound * others / (1 - bound) + 1e-9)
    assert counted <= bound * (counted + others) + 1e-9
    assert said.err.count("max-weight-share") == 1, "once a client is enough"


def test_it_changes_what_is_merged_and_is_kept_with_the_run(promptfed, uneven, tmp_path):
    found = {}
    for share in (0.4, 1):
        run = tmp_path / str(share)
        assert promptfed("train", *uneven, "--max-weight-share", share, "--run", run, "--quiet").code == 0
        found[share] = json.loads((run / "metrics.json").read_text())["prompt_sha256"]
        assert f"max_weight_share: {float(share)}" in (run / "config.yaml").read_text()
    assert found[0.4] != found[1]


@pytest.mark.parametrize("value", ["0", "-0.5", "1.01", "nan", "half", "1e400"])
def test_what_is_no_share_is_one_line(promptfed, uneven, tmp_path, value):
    said = promptfed("train", *uneven, "--max-weight-share", value, "--run", tmp_path / "run")
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert "max_weight_share" in said.err or "max-weight-share" in said.err
    assert not (tmp_path / "run").exists()
