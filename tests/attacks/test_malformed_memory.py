"""Malformed files of megabytes, and bombs: refused within a second and 100 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from promptfed.attacks.malformed import json_files, yaml_files
from promptfed.attacks.malformed_tensors import tensor_files, torch_files

HEAVY = """
import json, resource, sys, time
import torch
from pathlib import Path
from promptfed.attacks.malformed import json_files, yaml_files
from promptfed.attacks.malformed_tensors import tensor_files, torch_files
from promptfed.config import build_config, read_yaml
from promptfed.errors import PromptFedError
from promptfed.prompt_state import PromptState
from promptfed.readers.json_reader import read_json
from promptfed.readers.torch_files import read_torch

folder = Path(sys.argv[1])
path, tensors = folder / "x", {"ctx": torch.ones(4, 8)}
READERS = {
    "tensors": lambda: PromptState.load(path),
    "torch": lambda: read_torch(path, 10**9),
    "yaml": lambda: build_config(read_yaml(path)),
    "json": lambda: read_json(path),
}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.save(tensors, path)
read_torch(path, 10**9)
PromptState(tensors).save(path)
PromptState.load(path)
worst = {}
for file in sorted(folder.glob("*.mutant")):
    path = file
    before, start = peak(), time.process_time()
    try:
        READERS[file.name.split("-")[0]]()
    except PromptFedError:
        pass
    worst[file.name] = [peak() - before, time.process_time() - start]
print(json.dumps(worst))
"""


@pytest.mark.slow
def test_heavy_files_cost_neither_memory_nor_time(tmp_path: Path) -> None:
    """Of a process of its own, whose peak is what these files brought it to."""
    home, tensors = tmp_path, {"ctx": torch.ones(4, 8)}
    heavy = {
        "tensors": (m for m in tensor_files(tensors, {}, 1, 0, heavy=True) if len(m.content) > 50_000),
        "torch": (m for m in torch_files(tensors, "", 1, 0) if "pickle" in m.kind or "bomb" in m.kind),
        "yaml": yaml_files("seed: 1\n", 1, 0),
        "json": (m for m in json_files(b'{"a": 1}', 1, 0) if len(m.content) > 5_000),
    }
    for kind, mutants in heavy.items():
        for number, mutant in enumerate(mutants):
            (home / f"{kind}-{number:04d}-{mutant.kind[:30].replace('/', '_')}.mutant").write_bytes(mutant.content)
    claims = (10**9).to_bytes(8, "little") + b"{}"
    with (home / "tensors-9999-a real file of 8 GB.mutant").open("wb") as file:  # a sparse one, which takes no space
        file.write(claims)
        file.truncate(8 * 10**9)
    done = subprocess.run(
        [sys.executable, "-c", HEAVY, str(home)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    worst = json.loads(done.stdout)
    assert len(worst) > 100
    assert {name: cost for name, cost in worst.items() if cost[0] > 100_000_000 or cost[1] > 1.0} == {}
    assert sum(memory for memory, _ in worst.values()) < 100_000_000
