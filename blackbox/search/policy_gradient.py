"""BDPL's policy gradient over tables of token probabilities (Diao et al., TMLR 2023, arXiv:2201.08531)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from promptfed.blackbox.search.base import Matrix, Searcher, Tokens, check_told, finite_fitness
from promptfed.errors import ConfigError, unknown_name

Variant = Literal["bdpl", "zero", "normalized"]
Step = Literal["sgd", "adamw"]


class PolicyGradient(Searcher[Tokens]):
    """L independent categorical distributions over N candidate tokens, drawn from and moved towards better draws.

    One tell is one step: the gradient of ``gradient`` below, its norm clipped to ``clip``, a step of plain gradient
    descent or AdamW (PyTorch's constants and update), and the exact projection of each row onto the simplex.
    ``floor`` keeps probabilities away from 0, from where 1/P would be without bound and no draw ever comes back.

    Its whole state is the ``arrays()``: the table, and AdamW's moments. To go on, hand over the table as ``table``
    and all of them as ``resume``.
    """

    def __init__(
        self,
        table: Matrix,
        stream: np.random.Generator,
        *,
        samples: int = 20,
        lr: float = 1e-3,
        variant: Variant = "bdpl",
        clip: float = 3.0,
        step: Step = "adamw",
        weight_decay: float = 0.0,
        floor: float = 0.0,
        resume: Mapping[str, npt.NDArray[np.generic]] | None = None,
    ) -> None:
        table = np.array(table, dtype=np.float64)
        if table.ndim != 2 or not table.size or not np.isfinite(table).all():
            raise ConfigError(f"table must be (positions, candidates) finite numbers, not of shape {table.shape}")
        if (table < 0).any() or not np.allclose(table.sum(axis=1), 1, atol=1e-4):
            raise ConfigError("each row of table must hold probabilities: none negative, together 1")
        if samples < 2:
            raise ConfigError(f"samples must be 2 or more, not {samples}: a loss is compared with the mean of all")
        if variant not in get_args(Variant):
            raise unknown_name("policy gradient variant", variant, get_args(Variant))
        if step not in get_args(Step):
            raise unknown_name("step", step, get_args(Step))
        if not (lr > 0 and clip > 0 and weight_decay >= 0 and 0 <= floor * table.shape[1] <= 1):
            raise ConfigError("lr and clip must be positive, weight_decay not negative, floor at most 1 / candidates")
        proper = (table >= floor).all() and np.allclose(table.sum(axis=1), 1, rtol=0, atol=1e-9)
        self.table = table if proper else project_rows(table, floor)  # as it is, so that resuming changes no bit
        self.stream, self.samples, self.lr, self.variant, self.clip = stream, samples, lr, variant, clip
        self.step, self.weight_decay, self.floor = step, weight_decay, floor
        self.first, self.second, self.steps = np.zeros_like(table), np.zeros_like(table), 0
        if resume is not None:
            self.first = np.array(resume["first"], dtype=np.float64).reshape(table.shape)
            self.second = np.array(resume["second"], dtype=np.float64).reshape(table.shape)
            self.steps = int(np.reshape(resume["steps"], ()))

    def ask(self, n: int | None = None) -> list[Tokens]:
        """Return ``n`` (by default ``samples``) independent draws of L token indices; repeats count."""
        cumulated = np.cumsum(self.table, axis=1)
        cumulated /= cumulated[:, -1:]  # exactly 1 at the end, so that no draw falls behind the last token
        uniform = self.stream.random((self.samples if n is None else n, len(self.table), 1))
        return [tuple(row) for row in (uniform >= cumulated).sum(axis=2).tolist()]

    def tell(self, candidates: Sequence[Tokens], fitness: Sequence[float]) -> None:
        """Take one step. Needs two candidates, all drawn from the present table."""
        check_told(candidates, fitness)
        draws = np.array(candidates, dtype=np.int64).reshape(len(candidates), -1)
        length, vocabulary = self.table.shape
        if len(draws) < 2 or draws.shape[1] != length or draws.min() < 0 or draws.max() >= vocabulary:
            raise ValueError(f"tell takes 2 or more lists of {length} indices below {vocabulary}, not {draws.shape}")
        if (self.table[np.arange(length), draws] == 0).any():
            raise ValueError("a candidate was told that cannot have been drawn: one of its tokens has probability 0")
        step = gradient(self.table, draws, finite_fitness(fitness), self.variant)
        norm = float(np.linalg.norm(step))
        if norm > self.clip:
            step *= self.clip / norm
        self.table = project_rows(self._moved(step), self.floor)

    def best(self) -> Tokens:
        """Return the most probable token of each position, which is what BDPL deploys."""
        return tuple(self.table.argmax(axis=1).tolist())

    def stop(self) -> dict[str, object]:
        """Return ``certain`` once all draws are the same, so that nothing can be learned from them."""
        least = float(self.table.max(axis=1).min())
        return {"certain": least} if least >= 1 - 1e-9 else {}

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return ``table``, ``first``, ``second`` ``(L, N)`` float64 and ``steps`` ``()`` int64."""
        steps = np.array(self.steps, dtype=np.int64)
        return {"table": self.table, "first": self.first, "second": self.second, "steps": steps}

    def _moved(self, step: Matrix) -> Matrix:
        if self.step == "sgd":
            return self.table * (1 - self.lr * self.weight_decay) - self.lr * step
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * step
        self.second = 0.999 * self.second + 0.001 * step**2
        scale = np.sqrt(self.second / (1 - 0.999**self.steps)) + 1e-8
        momentum = self.first / (1 - 0.9**self.steps) / scale
        return self.table * (1 - self.lr * self.weight_decay) - self.lr * momentum


def gradient(
    table: Matrix, draws: npt.NDArray[np.int64], losses: npt.NDArray[np.float64], variant: Variant
) -> npt.NDArray[np.float64]:
    """Return ``(L, N)``: sum over draws ``(I, L)`` of ``(loss - mean loss) / (I - 1) * d log P(draw) / d P``.

    The derivative is 1/P for the token that was drawn; for the others -1/P ("bdpl", the code of the paper), 0 ("zero",
    the score function) or -1/(N P) ("normalized", FedOne). Each is a multiple of the score plus something that is
    the same for every draw: -1/P + 2 [drawn]/P, and so on. The losses minus their mean sum to 0, so that part drops
    out and the variants differ by a factor, no more: 2, 1 and 1 + 1/N. Leaving it out saves 0 * (1/0) for tokens
    whose probability is 0.
    """
    draws_count, length = draws.shape
    factor = {"bdpl": 2.0, "zero": 1.0, "normalized": 1.0 + 1.0 / table.shape[1]}[variant]
    positions = np.broadcast_to(np.arange(length), draws.shape)
    advantage = factor * (losses - losses.mean()) / (draws_count - 1)
    result = np.zeros_like(table)
    np.add.at(result, (positions, draws), advantage[:, None] / table[positions, draws])
    return result


def project_rows(rows: Matrix, floor: float = 0.0) -> Matrix:
    """Return the nearest rows ``(..., N)`` that sum to 1 with no entry below ``floor``: exact, by sorting.

    Duchi, Shalev-Shwartz, Singer and Chandra, Efficient Projections onto the l1-Ball (ICML 2008), figure 1; with a
    floor the mass above it is projected, which is the same problem shifted and scaled.
    """
    count = rows.shape[-1]
    mass = max(0.0, 1.0 - count * floor)
    shifted = rows - rows.max(axis=-1, keepdims=True)  # a constant for each row changes nothing but the rounding
    ordered = -np.sort(-shifted, axis=-1)
    excess = np.cumsum(ordered, axis=-1) - mass
    support = (ordered * np.arange(1, count + 1) > excess).sum(axis=-1, keepdims=True).clip(min=1)
    threshold = np.take_along_axis(excess, support - 1, axis=-1) / support
    projected: Matrix = np.maximum(shifted - threshold, 0.0) + floor
    return projected


def uniform_table(length: int, vocabulary_size: int) -> Matrix:
    """Return ``(L, N)`` with every token equally likely, where BDPL starts."""
    if length < 1 or vocabulary_size < 1:
        raise ConfigError(f"a table needs one position and one candidate at least, not {length} and {vocabulary_size}")
    return np.full((length, vocabulary_size), 1 / vocabulary_size)
