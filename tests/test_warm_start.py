"""A run that begins with the shared prompt of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import promptfed as pf
from promptfed.prompt_state import PromptState
from promptfed.warm_start import FILE

SMALL: dict[str, Any] = {
    "clients": 2, "rounds": 1, "shots": 1, "threads": 1, "progress": False, "baselines": (),
    "task_options": {"test_per_class": 1, "val_shots": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> pf.Run:
    return pf.train("promptfl", folder=tmp_path_factory.mktemp("warm") / "first", **SMALL)


def still(init: Any, folder: Path, **changed: Any) -> pf.Run:
    """A run that changes nothing of what it begins with."""
    options = {**SMALL, "method_options": {"lr": 1e-30, "weight_decay": 0.0, "n_ctx": 16}, **changed}
    return pf.train("kgcoop", init=init, folder=folder, **options)


def test_it_begins_there_and_says_so(first: pf.Run, tmp_path: Path) -> None:
    shared = first.prompt().shared
    bundle = first.export(1, path=tmp_path / "bundle")
    forms = (first, first.path, str(bundle), pf.load(bundle))
    for number, init in enumerate(forms):
        run = still(init, tmp_path / f"run {number}")
        assert torch.allclose(run.prompt().shared["ctx"], shared["ctx"], atol=1e-6)
        record = run.config.objects["init"]
        assert record.fingerprint == PromptState.load(run.path / FILE).sha256() == shared.sha256()
        assert record.name == ("run first, round 1 of promptfl" if number < 2 else "bundle bundle")


@pytest.mark.slow
def test_it_goes_on_without_the_other_run(first: pf.Run, tmp_path: Path) -> None:
    whole = pf.train("promptfl", init=first, folder=tmp_path / "whole", **{**SMALL, "rounds": 2})
    fresh = pf.train("promptfl", folder=tmp_path / "fresh", **{**SMALL, "rounds": 2})
    assert whole.metrics["prompt_sha256"] != fresh.metrics["prompt_sha256"]
    for place in (tmp_path / "whole" / "checkpoints").iterdir():
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    again = pf.load_run(tmp_path / "whole").resume(progress=False)
    assert again.metrics["prompt_sha256"] == whole.metrics["prompt_sha256"]
    PromptState({"ctx": torch.zeros(4, 4)}).save(again.path / FILE)
    with pytest.raises(pf.PromptFedError, match="is not the prompt that the run begins with"):
        again.resume(rounds=3, progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method_options": {"n_ctx": 4}}, r"'ctx' is \(4, \d+\) and \(16, \d+\)"),
        ({"method": "zero_shot"}, "zero_shot"),
        ({"method": "fedclip"}, "names"),
        ({"init": 3}, "init is 3: give a run"),
        ({"init": "nowhere"}, "init is 'nowhere', where neither a run nor a bundle nor an adapter of PEFT is"),
    ],
)
def test_another_shape_is_one_line_and_leaves_nothing(
    first: pf.Run, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(pf.PromptFedError, match=words) as said:
        pf.train(**{"method": "promptfl", "init": first, "folder": tmp_path / "run", **SMALL, **options})
    assert "\n" not in str(said.value)
    assert not (tmp_path / "run").exists()
