"""Train the bundled forecaster `tst` on made-up series, on one CPU core in about ten minutes.

    python scripts/train_tiny_tst.py --out promptfed/forecasters/tst_weights

Each series is a sum of a daily or other cycle, an autoregressive process, a trend and noise, in random shares. The
network learns quantiles of the future from the past (pinball loss). For half of the series it is also given a guess at
the future, which is the truth with more noise the less its trust is: so it learns what trust means, and a prompt can
speak to it. No measured data and no data of the tests are used.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from small_training import save, train
from torch import Tensor

from promptfed.forecasters.tst_network import (
    FUTURE,
    LONGEST_HISTORY,
    LONGEST_HORIZON,
    PAST,
    PATCH,
    QUANTILES,
    TstNetwork,
)

LENGTH = LONGEST_HISTORY + LONGEST_HORIZON
SEED = 7


def uniform(draw: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Return uniform numbers."""
    return low + (high - low) * torch.rand(*shape, generator=draw)


def autoregressive(draw: torch.Generator, memory: Tensor, length: int) -> Tensor:
    """Return series ``(n, length)`` of deviation 1, each with its ``memory`` ``(n,)`` from one step to the next."""
    noise = torch.randn(len(memory), length, generator=draw)
    scale, series = (1 - memory**2).sqrt(), [noise[:, 0]]
    for step in range(1, length):
        series.append(memory * series[-1] + scale * noise[:, step])
    return torch.stack(series, 1)


def made_up(draw: torch.Generator, n: int) -> Tensor:
    """Return series ``(n, LENGTH)``."""
    step = torch.arange(LENGTH, dtype=torch.float32)
    period = torch.where(torch.rand(n, 1, generator=draw) < 0.7, torch.tensor(24.0), uniform(draw, 8, 96, n, 1))
    cycle = torch.zeros(n, LENGTH)
    for harmonic in (1, 2, 3):
        size = torch.randn(n, 1, generator=draw).abs() / harmonic
        cycle += size * torch.sin(2 * math.pi * (harmonic * step / period + uniform(draw, 0, 1, n, 1)))
    slow = 1 + 0.4 * autoregressive(draw, uniform(draw, 0.95, 0.995, n), LENGTH)
    memory = 1 - torch.exp(uniform(draw, math.log(0.005), math.log(0.5), n))
    wander = autoregressive(draw, memory, LENGTH)
    trend = torch.randn(n, 1, generator=draw) * (step / LENGTH - 0.5)
    shares = uniform(draw, 0, 1, n, 4) ** 2
    noise = 0.3 * torch.randn(n, LENGTH, generator=draw)
    parts = torch.stack([cycle * slow, 1.5 * wander, 1.5 * trend, noise], 1)
    return (shares[:, :, None] * parts).sum(1)


def guesses(draw: torch.Generator, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return a guess at each ``truth`` ``(n, horizon)`` and its trust; half of the series have none."""
    n, horizon = truth.shape
    trust = uniform(draw, 0.0, 1.0, n, 1).expand(n, horizon).clone()
    ends = torch.randint(1, 2 * horizon, (n, 1), generator=draw)
    trust = trust.where(torch.arange(horizon) < ends, uniform(draw, 0, 1, n, 1) * trust)
    trust = trust * (torch.rand(n, 1, generator=draw) < 0.5)
    noise = autoregressive(draw, uniform(draw, 0.0, 0.97, n), horizon) + 0.5 * torch.randn(n, 1, generator=draw)
    spread = (0.7 * (1 - trust) / trust.clamp(min=1e-3)).clamp(max=4)
    return truth + spread * noise, trust


def batch(draw: torch.Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return values and trust of past and future, and the future's truth, in the scale of the past."""
    series = made_up(draw, n)
    kept = torch.where(torch.rand(n, 1, generator=draw) < 0.7, PAST, torch.randint(2, PAST + 1, (n, 1), generator=draw))
    observed = (torch.arange(LONGEST_HISTORY) >= LONGEST_HISTORY - PATCH * kept).float()
    past = series[:, :LONGEST_HISTORY]
    mean = (past * observed).sum(1, keepdim=True) / observed.sum(1, keepdim=True)
    deviation = (((past - mean) ** 2 * observed).sum(1, keepdim=True) / observed.sum(1, keepdim=True)).sqrt()
    series = ((series - mean) / deviation.clamp(min=1e-3)).clamp(-10, 10)
    horizon = PATCH * int(torch.randint(1, FUTURE + 1, (1,), generator=draw))
    truth = series[:, LONGEST_HISTORY : LONGEST_HISTORY + horizon]
    guess, trust = guesses(draw, truth)
    values = torch.cat([series[:, :LONGEST_HISTORY] * observed, guess.clamp(-10, 10)], 1)
    return values, torch.cat([observed, trust], 1), truth


def pinball(quantiles: Tensor, truth: Tensor) -> Tensor:
    """Return the mean pinball loss of ``quantiles`` ``(n, horizon, QUANTILES)``."""
    levels, error = torch.tensor(QUANTILES), truth[..., None] - quantiles
    return torch.maximum(levels * error, (levels - 1) * error).mean()


def main() -> None:
    """Train, and write weights and config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    network, draw = TstNetwork(), torch.Generator().manual_seed(SEED)

    def loss_of_a_batch() -> Tensor:
        values, trust, truth = batch(draw, options.batch)
        return pinball(network(values, trust), truth)

    train(network, options.steps, loss_of_a_batch)
    save(network, options.out, {"steps": options.steps, "batch": options.batch})


if __name__ == "__main__":
    main()
