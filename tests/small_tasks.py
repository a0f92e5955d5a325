"""The smallest run of each task that trains by gradients and has no file of runs of its own."""

from __future__ import annotations

from typing import Any

FEW = {"images": 4, "val_images": 2, "test_images": 2}
RUNS: dict[str, dict[str, Any]] = {
    "federated-search": {"backbone": "lm:minilm"},
    "multilabel": {"clients": 2, "shots": 2},
    "recommend": {"method_options": {"local_epochs": 1}},
    "vqa": {"task_options": FEW, "method_options": {"local_epochs": 1}},
}
