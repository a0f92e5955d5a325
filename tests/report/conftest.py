"""A small made-up run, as a finished training leaves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from promptfed.config import RunConfig
from promptfed.prompt_state import PromptState
from promptfed.runs.checkpoint import save_checkpoint
from promptfed.runs.directory import RunDirectory
from promptfed.types import FederationState

METRICS = {
    "zero_shot": {"name": "zero-shot", "local": 0.5, "local_std": 0.04, "base": 0.4, "new": 0.45, "hm": 0.4459},
    "local_only": {"name": "local-only", "local": 0.75, "local_std": 0.0312, "base": 0.3, "new": 0.35, "hm": 0.4},
    "method": {"name": "PromptFL", "local": 0.7, "local_std": 0.02, "base": 0.6, "new": None, "hm": None},
    "cost": {"bytes_up": 1, "bytes_down": 2, "seconds": 3.0, "image_encoder_calls": 4, "text_encoder_calls": 5},
    "template": "a <b>photo</b> of [bold] a {}.",
}


@pytest.fixture
def metrics() -> dict[str, object]:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in METRICS.items()}


@pytest.fixture
def make_run(tmp_path: Path, metrics: dict[str, object]) -> Callable[..., RunDirectory]:
    """``make_run(rounds=3, clients=2, finished=True)``: a run directory with events of that many rounds and clients."""

    def make(rounds: int = 3, clients: int = 2, finished: bool = True) -> RunDirectory:
        config = RunConfig(rounds=3, data="folder:<photos>", method_options={"n_ctx": 4})
        run = RunDirectory.create(tmp_path / "my-run", config, label="x")
        run.events.write("run_start", method="promptfl", seed=0)
        run.events.write("features", image_encoder_calls=120, text_encoder_calls=30, seconds=2.0)
        for stage, length in (("zero_shot", 1), ("local_only", rounds), ("promptfl", rounds)):
            for round in range(1, length + 1):
                for client in range(clients):
                    run.events.write(
                        "client", stage=stage, round=round, client=client, loss=1 / round, accuracy=0.5, samples=8,
                        bytes_up=1000, bytes_down=2000, seconds=0.25, image_encoder_calls=0, text_encoder_calls=9,
                    )  # fmt: skip
                run.events.write(
                    "round", stage=stage, round=round, loss=1 / round, accuracy=0.5, val_accuracy=0.4 + 0.05 * round,
                    bytes_up=1000 * clients, bytes_down=2000 * clients, seconds=0.5, clients=clients,
                )  # fmt: skip
                if stage == "promptfl":
                    state = FederationState(round, PromptState({"ctx": torch.ones(4, 8)}))
                    save_checkpoint(run.stage_folder(stage, False), state, events_bytes=run.events.size())
        if finished:
            for stage, name in (("zero_shot", "zero-shot"), ("local_only", "local-only"), ("promptfl", "PromptFL")):
                accuracies = [0.5 + 0.4 * client / clients for client in range(clients)]
                run.events.write(
                    "evaluation", stage=stage, name=name, local_mean=0.5, local_std=0.1, base=0.4, new=None, hm=None,
                    local=[{"client": c, "name": f"<client> {c}", "accuracy": a} for c, a in enumerate(accuracies)],
                    seconds=0.5, image_encoder_calls=0, text_encoder_calls=20,
                )  # fmt: skip
            run.events.write("run_end")
            run.write_metrics(dict(metrics))
        return run

    return make
