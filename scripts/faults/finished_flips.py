"""Bits that flip: one random bit of one file of a run, then the run is resumed, reported and exported."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from faults.outcomes import Outcome
from faults.outcomes import Result as Judgement
from faults.program import Result, bits_of, figures_of, files_of, make_data, run, train

SUITE = "bit flips in finished runs"
NEVER_READ = ("run.log", "report.html", "curve.md", "curve.png")
"""Files of a run that no command reads."""


def run_finished_flips(seed: int, count: int, folder: Path) -> list[Outcome]:
    """Flip a random bit of a finished and personalised run ``count`` times for each command, and give the command.

    ``folder`` is empty. Every file that some command reads is drawn with the same chance.
    """
    whole, data = folder / "whole", make_data(folder / "data")
    if train(whole, data).code or run("personalize", str(whole), "--epochs", "1").code:
        raise RuntimeError("the undisturbed run failed")
    draw = random.Random(seed)
    names = [name for name in files_of(whole) if (whole / name).is_file() and Path(name).name not in NEVER_READ]
    outcomes = []
    for command in ("resume", "report", "export"):
        home = folder / "try"
        shutil.copytree(whole, home)
        _, wanted = _tried(command, home, data)
        for _ in range(count):
            shutil.rmtree(home)
            shutil.copytree(whole, home)
            name = draw.choice(names)
            bit = flip_bit(home / name, draw)
            flipped = (home / name).read_bytes()
            result, reached = _tried(command, home, data)
            unused = (home / name).exists() and (home / name).read_bytes() == flipped
            if command == "resume" and reached and unused and name.endswith(".safetensors"):
                reached[1][name] = wanted[1][name]  # whoever reads it later finds it damaged
            judgement = _judged(result, is_same=reached == wanted)
            outcomes.append(Outcome(SUITE, f"{command}: bit {bit} of {name}", judgement, result.errors.strip()))
        shutil.rmtree(home)
    return outcomes


def flip_bit(path: Path, draw: random.Random) -> int:
    """Flip one bit of ``path`` and return which."""
    content = bytearray(path.read_bytes())
    bit = draw.randrange(8 * max(1, len(content)))
    if content:
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
    return bit


def _tried(command: str, folder: Path, data: Path) -> tuple[Result, Any]:
    """The command's result, and what it reached: figures and bits, without times."""
    if command == "resume":
        result = train(folder, data)
        return result, None if result.code else (figures_of(folder), bits_of(folder))
    if command == "report":
        result = run("report", str(folder))
        return result, None if result.code else (folder / "report.html").read_text().replace(str(folder), "")
    out = folder / "bundle"
    result = run("export", str(folder), "--client", "0", "--out", str(out))
    return result, None if result.code else {p.name: p.read_bytes() for p in sorted(out.iterdir())}


def _judged(result: Result, *, is_same: bool) -> Judgement:
    if result.code:
        return "refused" if result.is_clean_refusal else "traceback"
    if is_same:
        return "no difference"
    words = ("damaged", "gone", "not what was written")
    return "said" if any(word in result.errors for word in words) else "silent difference"
