"""What a method sends, found out from its first round without training anything."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch

from promptfed.blackbox.oracles.base import Backend, SoftSpace
from promptfed.blackbox.oracles.budget import Budget
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import OracleAbility, OracleAnswer, ProposalQuery, Query, ScoreQuery
from promptfed.experiment import Experiment
from promptfed.method import Shape
from promptfed.prompt_template import PromptTemplate


def numbers_in(shapes: Iterable[Shape]) -> int:
    """Return how many numbers tensors of these shapes have; an unknown length counts as one."""
    return sum(prod(length or 1 for length in shape) for shape in shapes)


@dataclass(frozen=True)
class RoundBytes:
    """Bytes of one client in the first round, as serialised. A broadcast can grow later (experts of other clients)."""

    down: int
    up: int


def round_bytes(experiment: Experiment, client: int = 0) -> RoundBytes:
    """Return the bytes that ``client`` is sent in round 1, and those that it must send back."""
    broadcast, sending = experiment.first_sending(client)
    return RoundBytes(broadcast.nbytes, sending.nbytes)


class ShapeOnlyBackend(Backend):
    """Stand-in for any oracle, to count bytes with.

    It has all abilities; its vectors are as long as MiniLM's and its images as large as tiny's. Its answers mean
    nothing.
    """

    name = "any"
    fingerprint = hashlib.sha256(b"sizes").hexdigest()
    abilities: frozenset[OracleAbility] = frozenset(
        {"soft prompts", "text prompts", "pixel prompts", "generation", "token proposals"}
    )
    pixel_shape = (3, 32, 32)

    def __init__(self, form: PromptTemplate) -> None:
        self.form, self.soft = form, SoftSpace(384, 0.05, torch.zeros(2000, 384))

    def answer(self, queries: Sequence[Query], budget: Budget) -> Generator[tuple[int, OracleAnswer], None, None]:
        for position, query in enumerate(queries):
            if isinstance(query, ScoreQuery):
                yield position, OracleAnswer(scores=(0.0,) * len(query.classes))
            elif isinstance(query, ProposalQuery):
                yield position, OracleAnswer(tokens=tuple(f"word{k}" for k in range(query.count)))
            else:
                yield position, OracleAnswer(text="word")


def sizes_only(form: PromptTemplate | None) -> Oracle:
    """Return an oracle that nothing needs to be loaded for."""
    assert form is not None, "a black-box task says how its examples are put"
    return Oracle(ShapeOnlyBackend(form))
