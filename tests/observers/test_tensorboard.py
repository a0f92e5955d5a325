"""Event files that TensorBoard itself reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from promptfed.observers.choose import build_observers

pytest.importorskip("tensorboard")


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def steps(folder: Path, name: str) -> dict[int, float]:
    scalars = read(folder).Scalars(name)
    assert len({scalar.step for scalar in scalars}) == len(scalars), "a round is there twice"
    return {scalar.step: scalar.value for scalar in scalars}


def test_a_run_that_was_killed_has_each_round_once(story: Any) -> None:
    folder = story.folder.path / "tensorboard"
    story.tell(build_observers("tensorboard"), story.start, *story.round(1), stops=True)
    kept = story.folder.events.size()
    story.tell(build_observers("tensorboard"), story.resume, *story.round(2, 9.0), stops=True)
    story.folder.events.truncate(kept)  # round 2 was not saved: it is trained again
    story.tell(build_observers("tensorboard"), story.resume, *story.round(2, 0.25), story.tests)
    assert steps(folder / "promptfl", "loss") == {1: 0.5, 2: 0.25}
    assert steps(folder / "promptfl", "client_3/loss") == {1: 0.5, 2: 0.25}
    assert steps(folder / "promptfl", "test/base") == {2: 0.625}
    texts = read(folder / "run")
    assert "method.lr: 0.125" in str(texts.Tensors("options/text_summary")[-1].tensor_proto.string_val[0])
    assert "a\\\\|b | 50.0" in str(texts.Tensors("results/text_summary")[-1].tensor_proto.string_val[0])


def test_the_clients_of_half_a_round_are_kept(story: Any) -> None:
    story.tell(build_observers("tensorboard"), story.start, *story.round(1), story.client(2, 0.25), stops=True)
    story.tell(build_observers("tensorboard"), story.resume, *story.round(2)[1:])
    assert steps(story.folder.path / "tensorboard" / "promptfl", "client_3/loss") == {1: 0.5, 2: 0.25}


def test_a_folder_for_many_runs_is_told_what_was_before(story: Any, tmp_path: Path) -> None:
    story.tell([], story.start)
    for event, fields in story.round(1):
        story.folder.events.write(event, **fields)
    story.tell(build_observers({"tensorboard": {"folder": str(tmp_path / "boards")}}), story.resume, *story.round(2))
    [folder] = (tmp_path / "boards").iterdir()
    assert folder.name == "tale-01234567"
    assert list(steps(folder / "promptfl", "loss")) == [1, 2]
    assert story.notes == [f"tensorboard: tensorboard --logdir {tmp_path / 'boards'}"]
