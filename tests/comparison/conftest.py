"""A comparison that takes seconds: 8 classes of plain pictures, 2 clients, 2 rounds, one step a round."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image

from promptfed.comparison.plan import Plan
from promptfed.config import build_config


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pictures")
    for k, name in enumerate(["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]):
        (folder / name).mkdir()
        for i in range(8):
            colour = (30 * k, (90 * k + 11 * i) % 256, 255 - 30 * k)
            Image.new("RGB", (16, 16), colour).save(folder / name / f"{i}.png")
    return f"folder:{folder}"


@pytest.fixture(scope="session")
def make_plan(pictures: str) -> Callable[..., Plan]:
    """``make_plan(["promptfl"], 2, grid=..., rounds=...)``."""

    def make(methods: list[str], seeds: int, grid: dict | None = None, fix_partition: bool = False, **options) -> Plan:
        small = {
            "data": pictures, "clients": 2, "shots": 2, "rounds": 2, "partition": "classes", "backbone": "tiny",
            "task_options": {"val_shots": 2, "base_fraction": 0.5},
            "method_options": {"n_ctx": 2, "local_epochs": 1},
        }  # fmt: skip
        return Plan.make(build_config(small, options), methods, seeds, fix_partition=fix_partition, grid=grid)

    return make
