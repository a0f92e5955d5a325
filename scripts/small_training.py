"""How the scripts that make bundled weights train a small network and write it down."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

RATE = 2e-3
WARM_UP = 100
"""Steps until the learning rate is at its height, from which it falls as a cosine."""


def train(network: nn.Module, steps: int, loss_of_a_batch: Callable[[], Tensor]) -> None:
    """Take ``steps`` of AdamW, and print the running mean of the loss."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    began, mean = time.perf_counter(), 0.0
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate
        loss = loss_of_a_batch()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0 or step == steps - 1:
            print(f"{step} loss {mean:.4f} {time.perf_counter() - began:.0f} s", flush=True)


def save(network: nn.Module, folder: Path, config: dict[str, int]) -> None:
    """Write ``weights.safetensors``, and ``config.json`` with ``config`` and the weights' SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weights.safetensors"
    save_file({name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}, path)
    content = {**config, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
