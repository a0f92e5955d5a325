"""Engines with processes of their own get a user's objects by value, or say that they cannot."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

import promptfed as pf
from promptfed.engine_choice import engine_of
from promptfed.errors import ConfigError
from promptfed.methods.promptfl import PromptFL
from promptfed.object_options import config_with_objects
from promptfed.prompt_state import PromptState
from promptfed.tasks.sources.icon_source import source as icons
from promptfed.types import Broadcast, ClientData

pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("forgets_classes")
SMALL: dict[str, Any] = {
    "rounds": 1, "shots": 2, "clients": 2, "threads": 1,
    "task_options": {"val_shots": 1, "test_per_class": 2},
}  # fmt: skip


class Icons(Dataset[Any]):
    """Eight icons of each of three classes; this module is none that another process can import."""

    def __init__(self, extra: Any = None) -> None:
        every = icons("")
        self.classes, self.extra = list(every.classes[:3]), extra
        kept = [[s for s in every.samples if s.label == label][:8] for label in range(3)]
        self.rows = [(s.item.load(), s.label) for some in kept for s in some]  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Any:
        return self.rows[row]


class Quartered(PromptFL):
    """Sends a quarter of the way that PromptFL goes."""

    name = "Quartered"

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        update, kept = super().split_update(trained, broadcast, data, personal)
        return 0.25 * update + 0.75 * broadcast.shared, kept


@pytest.mark.slow
def test_ray_trains_the_same_prompts_on_the_same_objects(tmp_path: Path) -> None:
    given = {"method": Quartered, "data": Icons(), "model": pf.load_backbone("tiny")}
    options = {**SMALL, "progress": False, "baselines": ()}
    local = pf.train(**given, folder=tmp_path / "local", **options)
    actors = pf.train(**given, folder=tmp_path / "ray", engine="ray", actors=1, **options)
    assert actors.metrics["prompt_sha256"] == local.metrics["prompt_sha256"]
    assert actors.config.objects == local.config.objects


def test_what_cannot_be_pickled_is_refused_before_ray_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptfed.engines.ray_runtime.begin", lambda address: pytest.fail("Ray was begun"))
    options = {**SMALL, "data": Icons(threading.Lock()), "model": "tiny", "engine": "ray"}
    config, objects = config_with_objects({}, options)
    words = r"engine 'ray' sends the Python objects .* cannot be pickled .*lock"
    with pytest.raises(ConfigError, match=words), engine_of(config, objects):
        pass


def test_locally_nothing_need_be_pickled(tmp_path: Path) -> None:
    config, objects = config_with_objects({}, {**SMALL, "data": Icons(threading.Lock()), "model": "tiny"})
    with engine_of(config, objects) as engine:
        assert engine is None
