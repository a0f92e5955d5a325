"""LoRA: a change ``s B A`` of low rank beside each of some frozen matrices (Hu et al. 2022, arXiv 2106.09685)."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.inserts.base import MODULE, InsertKind, check_modules, check_shape
from promptfed.language_models.insert import Factors, Insert
from promptfed.low_rank import stack, total
from promptfed.printable import printable
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream

A, B = "lora_A.weight", "lora_B.weight"
RESIDUAL = "residual/"
"""Before the names of factors that are frozen: what is added to the matrices before anything is trained. Scale 1."""
PERSONAL = "personal/"
"""Before the names of a client's own factors beside those that all share."""
EVERY_LAYER = "all-linear"


def factor_name(path: str, factor: str, group: str = "") -> str:
    """Return the name of a tensor: PEFT's file key, behind the name of a ``group`` of factors."""
    return f"{group}{MODULE}{path}.{factor}"


def matching_paths(paths: Iterable[str], targets: Sequence[str], option: str = "targets") -> tuple[str, ...]:
    """Return those of ``paths`` that are a target, or end with a point and a target, as PEFT matches a list.

    Args:
        paths: Of the linear layers.
        targets: Whole paths or the ends of paths.
        option: The method's option that names them.

    Raises:
        ConfigError: A target matches no path; the message has the nearest names.
    """
    candidates = list(paths)
    matches: set[str] = set()
    for target in targets:
        hits = [p for p in candidates if target == EVERY_LAYER or p == target or p.endswith(f".{target}")]
        if not hits:
            names = sorted({path.rpartition(".")[2] for path in candidates})
            near = difflib.get_close_matches(target, [*names, *candidates], n=3, cutoff=0.4) or names[:8]
            raise ConfigError(
                f"option '{option}' names '{printable(target, 80)}', which no linear layer of this model has: use "
                f"{', '.join(printable(name, 80) for name in near)}, or {EVERY_LAYER} (--set method.{option}=NAME,NAME)"
            )
        matches.update(hits)
    return tuple(path for path in candidates if path in matches)


class LowRank(InsertKind):
    """Factors A ``(r, in)`` and B ``(out, r)`` beside each target matrix, named by PEFT's file keys.

    A reading adds all factors that the values hold: those that are trained, those of RESIDUAL and those of PERSONAL.
    Ranks are those of the values, and may differ from matrix to matrix.

    Args:
        matrices: Path of every linear layer -> (out, in).
        targets: The ends of the paths of those that are changed; EVERY_LAYER for all.
        seed: The run's.
        r: Rank at the start.
        alpha: The scale is ``alpha / r``, or ``alpha / sqrt(r)`` if ``rank_stabilised`` (arXiv 2312.03732).
        rank_stabilised: See ``alpha``.
        common_scale: Whether factors of any rank have the scale of rank ``r``.
    """

    peft_type: ClassVar[str] = "LORA"

    def __init__(
        self,
        matrices: Mapping[str, tuple[int, int]],
        targets: Sequence[str],
        seed: int,
        *,
        r: int = 8,
        alpha: float = 16.0,
        rank_stabilised: bool = False,
        common_scale: bool = False,
    ) -> None:
        if not targets:
            raise ConfigError(
                "option 'targets' is empty and this architecture has no usual ones: name the ends of layers' paths, "
                f"or '{EVERY_LAYER}' (--set method.targets=NAME,NAME)"
            )
        self.paths = matching_paths(matrices, targets)
        self.shapes = {path: matrices[path] for path in self.paths}
        self.targets, self.seed = tuple(targets), seed
        self.r, self.alpha, self.rank_stabilised, self.common_scale = r, alpha, rank_stabilised, common_scale

    def scale(self, rank: int) -> float:
        """Return the scale of factors of ``rank``."""
        rank = self.r if self.common_scale else rank
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def start(self, *purpose: str | int) -> PromptState:
        """Return A uniform in ``+- 1 / sqrt(in)``, as PEFT draws it, and B zero: the frozen model itself."""
        values = {}
        for path in self.paths:
            values[factor_name(path, A)] = self.random_rows(path, self.r, *purpose)
            values[factor_name(path, B)] = torch.zeros(self.shapes[path][0], self.r)
        return PromptState(values)

    def random_rows(self, path: str, rank: int, *purpose: str | int) -> Tensor:
        """Return A ``(rank, in)`` of one matrix; the first rows are the same for any rank."""
        width = self.shapes[path][1]
        draw = torch.rand(rank, width, generator=torch_stream(self.seed, *purpose, "low rank", path))
        return (2 * draw - 1) / math.sqrt(width)

    def factors(self, values: Mapping[str, Tensor], path: str, group: str = "") -> Factors:
        """Return one matrix's factors of one ``group``."""
        a, b = values[factor_name(path, A, group)], values[factor_name(path, B, group)]
        return Factors(a, b, 1.0 if group == RESIDUAL else self.scale(len(a)))

    def named(self, path: str, change: Factors, group: str = "") -> dict[str, Tensor]:
        """Return the tensors of ``change``, whose scale is that of its group and rank."""
        return {factor_name(path, A, group): change.a, factor_name(path, B, group): change.b}

    def resized(self, path: str, change: Factors, rank: int, *purpose: str | int) -> Factors:
        """Return ``change`` with ``rank`` components and their scale: its first ones, and fresh ones that add nothing.

        Fresh rows of A are random (``purpose`` names their stream), those of B are zero.
        """
        count, scale = min(rank, len(change.a)), self.scale(rank)
        a, b = change.a[:count], change.b[:, :count] * (change.scale / scale)
        if count < rank:
            a = torch.cat([a, self.random_rows(path, rank, *purpose)[count:].to(a)], 0)
            b = torch.cat([b, b.new_zeros(len(b), rank - count)], 1)
        return Factors(a, b, scale)

    def changes(self, values: Mapping[str, Tensor]) -> dict[str, tuple[Factors, ...]]:
        """Return path -> the factors of all groups that ``values`` hold."""
        changes = {}
        for path in self.paths:
            groups = [group for group in ("", RESIDUAL, PERSONAL) if factor_name(path, B, group) in values]
            if groups:
                changes[path] = tuple(self.factors(values, path, group) for group in groups)
        return changes

    def insert(self, values: Mapping[str, Tensor]) -> Insert:
        return Insert(low_rank=self.changes(values))

    def interpolate(self, start: PromptState, end: PromptState, alpha: float) -> PromptState:
        """Return factors of ``(1 - alpha) dW_start + alpha dW_end``, the mixture of the two models' matrices.

        The mean of the factors is another one: it has the cross terms ``alpha (1 - alpha)``. Where both have the same
        A the factors B are mixed, else both changes are stacked, to twice the rank. A factor without its partner is
        mixed as it is.
        """
        if alpha in (0, 1):
            return end if alpha else start
        values: dict[str, Tensor] = {}
        for path, group in itertools.product(self.paths, ("", RESIDUAL, PERSONAL)):
            names = {factor_name(path, A, group), factor_name(path, B, group)}
            ends = [(state, weight) for state, weight in ((start, 1 - alpha), (end, alpha)) if names <= set(state)]
            if not ends:
                continue
            parts, weights = [self.factors(state, path, group) for state, _ in ends], [weight for _, weight in ends]
            if len(parts) == 2 and torch.equal(parts[0].a, parts[1].a):
                change = Factors(parts[0].a, torch.lerp(parts[0].b, parts[1].b, alpha))
            else:
                whole = stack(parts, weights)
                scale = 1.0 if group == RESIDUAL else self.scale(len(whole.a))
                change = Factors(whole.a, whole.b / scale)
            values |= self.named(path, change, group)
        others = {name: torch.lerp(start[name], end[name], alpha) for name in start if name not in values}
        return PromptState({**others, **values})

    def start_from(self, insert: Insert) -> PromptState:
        """Return the same changes at this kind's rank and scale; a lower rank is filled up with what changes nothing.

        Raises:
            ConfigError: It changes other matrices, is of a higher rank, or of another size.
        """
        if not insert.low_rank:
            raise ConfigError("holds no low-rank changes (LoRA), which is what this method trains")
        check_modules(insert.low_rank, self.paths)
        values: dict[str, Tensor] = {}
        for path, terms in insert.low_rank.items():
            change = total(terms)
            rank, (rows, columns) = len(change.a), self.shapes[path]
            where = f"for '{printable(path, 120)}'"
            if rank > self.r:
                raise ConfigError(
                    f"has factors of rank {rank} {where}, and the method's have {self.r}: --set method.r={rank}"
                )
            check_shape(f"factors A {where}", change.a.shape, (rank, columns), "it is for another model")
            check_shape(f"factors B {where}", change.b.shape, (rows, rank), "it is for another model")
            values |= self.named(path, self.resized(path, change, self.r, "start from an adapter"))
        return PromptState(values)

    def _deployed(self, values: Mapping[str, Tensor]) -> dict[str, Factors]:
        """Return path -> one change that is the sum of all groups' changes; PEFT has no groups."""
        changes = self.changes(values)
        if not changes:  # nothing was added to the model so far
            start = LowRank.start(self)
            return {path: self.factors(start, path) for path in self.paths}
        return {path: total(parts) for path, parts in changes.items()}

    def peft_config(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return PEFT's fields. Ranks and alphas of single matrices stand in ``rank_pattern`` and ``alpha_pattern``.

        The scale is written as alpha / r also where it is rank-stabilised.
        """
        changes = self._deployed(values)
        ranks = {path: len(change.a) for path, change in changes.items()}
        alphas = {path: _whole(change.scale * ranks[path]) for path, change in changes.items()}
        rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
        return {
            "peft_type": self.peft_type,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": EVERY_LAYER if EVERY_LAYER in self.targets else sorted(self.targets),
            "rank_pattern": {path: value for path, value in ranks.items() if value != rank},
            "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
        }

    def peft_tensors(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for path, change in self._deployed(values).items():
            tensors |= self.named(path, Factors(change.a.float(), change.b.float()))
        return tensors


def _whole(value: float) -> float | int:
    return round(value) if abs(value - round(value)) < 1e-9 else value
