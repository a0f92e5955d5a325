"""The smallest run of each task and method that trains by gradients and has no file of runs of its own."""

from __future__ import annotations

from typing import Any

FEW = {"images": 4, "val_images": 2, "test_images": 2}
ICONS = {
    "task": "clip-fewshot", "data": "icons", "backbone": "tiny", "clients": 2, "shots": 1,
    "task_options": {"val_shots": 1}, "method_options": {"local_epochs": 1},
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "federated-search": {"task": "federated-search", "backbone": "lm:minilm"},
    "fedmap": {**ICONS, "method": "fedmap", "method_options": {"local_epochs": 1, "depth": 1}},
    "fedmgp": {**ICONS, "method": "fedmgp"},
    "fedmvp": {**ICONS, "method": "fedmvp"},
    "multilabel": {"task": "multilabel", "clients": 2, "shots": 2},
    "recommend": {"task": "recommend", "method_options": {"local_epochs": 1}},
    "vqa": {"task": "vqa", "task_options": FEW, "method_options": {"local_epochs": 1}},
}
"""Name of a task or a method -> its options."""
ASKED: dict[str, dict[str, Any]] = {
    "fedicl": {
        "task": "blackbox-text", "method": "fedicl", "data": "texts:questions", "clients": 2, "shots": 2,
        "method_options": {"own": 2, "shown": 6},
    },
}  # fmt: skip
"""The same of methods that ask a black box, which Ray and real sites do not."""
