"""Train some fifteen small runs and compare their prompts and figures with those that are on record.

    python scripts/golden_runs.py                   # compare all with tests/golden_runs.json; some minutes
    python scripts/golden_runs.py default maple     # only these
    python scripts/golden_runs.py --record          # write what comes out into the file

A change that moves code and not behaviour leaves every hash as it is. Hashes are those of one kind of processor and
one version of torch, because both decide the last bits of a sum. On another the figures are compared instead, and
may be off by ``TOLERANCE``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from PIL import Image
from safetensors import safe_open

from promptfed.cli import main as promptfed

RECORD = Path(__file__).resolve().parents[1] / "tests" / "golden_runs.json"
TOLERANCE = 0.03
"""Largest difference of an accuracy between two kinds of processor."""
NOT_COMPARED = ("seconds", "image_encoder_calls", "oracle_calls", "oracle_cache_hits")
"""Costs that depend on the machine, or on which of the runs came before and filled the caches."""
STAGES = ("zero_shot", "local_only", "method")
FIGURES = ("local", "local_all", "base", "new", "hm")

SMALL = ("--rounds", "2", "--shots", "2", "--clients", "3", "--threads", "1", "--baselines", "zero_shot")
TEXTS = ("--task", "blackbox-text", "--rounds", "2", "--clients", "2", "--threads", "1", "--baselines", "zero_shot")
TRAININGS: dict[str, tuple[str, ...]] = {
    "default": ("--threads", "1", "--rounds", "3", "--shots", "4"),
    "kgcoop": (*SMALL, "--method", "kgcoop"),
    "fedotp": (*SMALL, "--method", "fedotp"),
    "promptfolio": (*SMALL, "--method", "promptfolio"),
    "pfedmoap": (*SMALL, "--method", "pfedmoap"),
    "dpfpl": (*SMALL, "--method", "dpfpl"),
    "fedamp": (*SMALL, "--method", "fedamp"),
    "fedclip": (*SMALL, "--method", "fedclip"),
    "maple": (*SMALL, "--method", "maple", "--shots", "1"),
    "fedtpg": (*SMALL, "--method", "fedtpg"),
    "dropouts": (*SMALL, "--rounds", "3", "--clients", "6", "--dropout", "0.3", "--quorum", "0.2",
                 "--aggregator", "trimmed_mean", "--set", "aggregator.trim=0.2"),
    "ray": (*SMALL, "--engine", "ray", "--actors", "2"),
    "fedbpt": (*TEXTS, "--method", "fedbpt"),
    "fedbdpl": (*TEXTS, "--method", "fedbdpl"),
    "feddtpt": (*TEXTS, "--method", "feddtpt"),
    "fedspsc": (*TEXTS, "--method", "fedspsc"),
}  # fmt: skip
AFTERWARDS = ("personalize", "predict")
"""What is done with the run ``default`` once it is there."""


def golden_runs(names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Do what ``names`` say below ``folder``, and return name -> what came of it."""
    outcomes: dict[str, Any] = {}
    for name in (*TRAININGS, *AFTERWARDS):
        if name not in names:
            continue
        print(name, file=sys.stderr, flush=True)
        if name in TRAININGS:
            task = () if "--task" in TRAININGS[name] else ("--task", "clip-fewshot")
            run("train", *task, *TRAININGS[name], "--run", str(folder / name))
            outcomes[name] = outcome_of(folder / name)
        elif name == "personalize":
            run("personalize", str(folder / "default"), "--epochs", "2")
            outcomes[name] = {"bits": tensors_sha256(folder / "default" / "personalized")}
        else:
            outcomes[name] = predicted(folder)
    return outcomes


def run(*words: str) -> str:
    """Give the command ``promptfed`` in this process and return what it printed."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            promptfed([*words, *(["--json"] if words[0] != "report" else [])])
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"promptfed {' '.join(words)}: {errors.getvalue()}") from end
    return printed.getvalue()


def outcome_of(folder: Path) -> dict[str, Any]:
    """The bits of a run's prompts, its accuracies, and what it cost but for time."""
    metrics = json.loads((folder / "metrics.json").read_text())
    cost = {name: value for name, value in metrics["cost"].items() if name not in NOT_COMPARED}
    figures = {stage: {name: metrics[stage][name] for name in FIGURES} for stage in STAGES if stage in metrics}
    return {"bits": tensors_sha256(folder / "checkpoints"), "figures": figures, "cost": cost}


def predicted(folder: Path) -> dict[str, Any]:
    """The bits of an exported bundle, and what it says of a picture."""
    picture = folder / "picture.png"
    Image.radial_gradient("L").convert("RGB").save(picture)
    run("export", str(folder / "default"), "--client", "1", "--shared", "--out", str(folder / "bundle"))
    answer = json.loads(run("predict", str(folder / "bundle"), str(picture)))
    return {"bits": tensors_sha256(folder / "bundle"), "answer": _rounded(answer, str(folder))}


def _rounded(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner, folder) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner, folder) for inner in value]
    if isinstance(value, str):
        return value.replace(folder, "")
    return round(value, 6) if isinstance(value, float) else value


def tensors_sha256(folder: Path) -> str:
    """SHA-256 over the tensors of all safetensors files below ``folder``: values and names, wherever a file lies."""
    rows = []
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                tensor = file.get_tensor(name).contiguous()
                content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
                kind = f"{name.rpartition('/')[2]} {tensor.dtype} {tuple(tensor.shape)}"
                rows.append(f"{kind} {hashlib.sha256(content).hexdigest()}")
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def machine() -> str:
    """What decides the last bits: the processor's model and the version of torch."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = re.findall(r"^(model name|model|stepping)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = ", ".join(f"{name} {value}" for name, value in sorted(dict(lines).items())) or model
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__.partition('+')[0]}"


def differences(outcomes: dict[str, Any], recorded: dict[str, Any], *, same_machine: bool) -> Iterator[str]:
    """Say in a line each what is not as recorded."""
    for name, outcome in outcomes.items():
        wanted = recorded.get(name)
        if wanted is None:
            yield f"{name}: nothing is on record"
        elif same_machine:
            yield from (f"{name}: other {part}" for part in wanted if outcome.get(part) != wanted[part])
        else:
            for stage, figures in wanted.get("figures", {}).items():
                for figure, value in figures.items():
                    now = outcome["figures"][stage][figure]
                    if (now is None) != (value is None) or (value is not None and abs(now - value) > TOLERANCE):
                        yield f"{name}: {stage} {figure} was {value} and is {now}"


def main() -> None:
    """Read the command line, do the runs, and compare or record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs to do [all]")
    parser.add_argument("--record", action="store_true", help="write tests/golden_runs.json")
    options = parser.parse_args()
    everything = (*TRAININGS, *AFTERWARDS)
    if unknown := set(options.names) - set(everything):
        parser.error(f"no run is called {', '.join(sorted(unknown))}; there are {', '.join(everything)}")
    names = options.names or everything
    if set(names) & set(AFTERWARDS):
        names = ("default", *names)
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {"machine": "", "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMPTFED_CACHE"] = f"{folder}/cache"  # an empty one, so that calls are counted alike
        outcomes = golden_runs(names, Path(folder))
    if options.record:
        kept = recorded["runs"] if recorded["machine"] == machine() else {}
        record = {"machine": machine(), "runs": {**kept, **outcomes}}
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        print(f"recorded {len(outcomes)} runs in {RECORD}")
        return
    same = recorded["machine"] == machine()
    lines = list(differences(outcomes, recorded["runs"], same_machine=same))
    print("\n".join(lines) or f"{len(outcomes)} runs are as recorded" + ("" if same else ", within the tolerance"))
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
