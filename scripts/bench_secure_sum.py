"""Time a secure sum of a prompt's changes, count its bytes, and compare the result with the plain sum.

    python scripts/bench_secure_sum.py                         # 3, 10, 30 and 100 clients; a few minutes on one core
    python scripts/bench_secure_sum.py --clients 10 --size 2048,500000
    python scripts/bench_secure_sum.py --he --clients 10       # by ciphertexts; pip install 'promptfed[he]'

A tenth of the clients is lost after it shared its secrets, which is what costs the server most. All legs of all clients
run in one process, one after the other. Times are processor time; a client's is the mean over clients, and the shortest
of --repeats rounds is printed. Plain is what there would be without: float32 numbers sent up, added in float64. The
exit code is 1 if a sum is off by more than rounding explains.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from promptfed.privacy.fixed_point import FixedPoint, Reals
from promptfed.privacy.he import HeSums
from promptfed.privacy.secure_round import SecureRound, secure_sum_of
from promptfed.privacy.sum_terms import default_threshold
from promptfed.prompt_state import PromptState

BOUND = 0.1
"""Prompts change by some hundredths in a round."""
HEADER = (
    *("clients", "lost", "threshold", "values", "client (ms)", "server (ms)", "plain sum (ms)", "up (kB)"),
    *("up, plain (kB)", "more up", "down, besides the prompt (kB)", "largest error", "bound of the error"),
)

HE_HEADER = (
    *("clients", "values", "client (ms)", "server (ms)", "up (kB)", "of plain", "down, the sum (kB)"),
    *("public key, once (kB)", "largest error"),
)


@dataclass(frozen=True)
class Row:
    """One size of a federation."""

    clients: int
    lost: int
    size: int
    done: SecureRound
    plain_seconds: float
    error: float

    @property
    def bound(self) -> float:
        return FixedPoint(BOUND, self.clients).error_bound

    def cells(self) -> tuple[str, ...]:
        plain = 4 * self.size
        return (
            *(f"{self.clients}", f"{self.lost}", f"{default_threshold(self.clients)}", f"{self.size:,}"),
            f"{1e3 * self.done.client_seconds:.1f}",
            f"{1e3 * self.done.server_seconds:.0f}",
            f"{1e3 * self.plain_seconds:.2f}",
            f"{self.done.bytes_up / 1e3:.1f}",
            f"{plain / 1e3:.1f}",
            f"{100 * (self.done.bytes_up / plain - 1):.1f} %",
            f"{self.done.bytes_down / 1e3:.1f}",
            f"{self.error:.1e}",
            f"{self.bound:.1e}",
        )


def measure(clients: int, size: int, repeats: int) -> Row:
    """Sum the same changes ``repeats`` times and keep the shortest times."""
    lost = min(clients // 10, clients - default_threshold(clients))
    stream = np.random.default_rng(clients)
    changes = {client: np.clip(stream.normal(0, 0.02, size), -BOUND, BOUND) for client in range(clients)}
    rounds, plains = [], []
    for round in range(1, repeats + 1):
        rounds.append(secure_sum_of(changes, bytes(32), BOUND, range(lost), round=round))
        began = time.thread_time()
        expected = _plain_sum([changes[client] for client in range(lost, clients)])
        plains.append(time.thread_time() - began)
    error = max(float(np.abs(done.values - expected).max()) for done in rounds)
    best = min(rounds, key=lambda done: done.client_seconds)
    return Row(clients, lost, size, best, min(plains), error)


def _plain_sum(changes: Sequence[Reals]) -> Reals:
    total: Reals = np.zeros(len(changes[0]))
    for change in changes:
        total += change
    return total


def table(rows: Sequence[Row]) -> str:
    cells = [HEADER, tuple("---:" for _ in HEADER), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells).replace("| ---: ", "|---:").replace("---: |", "---:|")


def ciphertexts(clients: int, size: int, repeats: int) -> tuple[str, ...]:
    """Sum the same changes as ``measure`` by homomorphic encryption; nobody is lost."""
    stream = np.random.default_rng(clients)
    rows = np.clip(stream.normal(0, 0.02, (clients, size)), -BOUND, BOUND)
    rows *= BOUND / max(BOUND, float(np.linalg.norm(rows, axis=1).max()))  # the bound is that of the norm here
    changes, sums, best, error = {k: torch.from_numpy(row) for k, row in enumerate(rows)}, HeSums(BOUND), None, 0.0
    for round in range(1, repeats + 1):
        total = sums(changes, range(clients), PromptState({}), round)
        error = max(error, float(np.abs(total.values.numpy() - rows.sum(0)).max()))
        if sums.last is not None and (best is None or sums.last.client_seconds < best.client_seconds):
            best = sums.last
    assert best is not None
    plain = 4 * size
    return (
        *(f"{clients}", f"{size:,}", f"{1e3 * best.client_seconds:.1f}", f"{1e3 * best.server_seconds:.0f}"),
        *(f"{best.bytes_up / 1e3:.1f}", f"{best.bytes_up / plain:.1f} x", f"{best.bytes_down / 1e3:.1f}"),
        *(f"{len(sums.keys.public) / 1e3:.0f}", f"{error:.1e}"),
    )


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=_numbers, default=[3, 10, 30, 100], metavar="N,N", help="[3,10,30,100]")
    parser.add_argument("--size", type=_numbers, default=[8192], metavar="D,D", help="values of a change [8192]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--he", action="store_true", help="by homomorphic encryption in place of masks")
    given = parser.parse_args()
    if given.he:
        cells = [ciphertexts(clients, size, given.repeats) for size in given.size for clients in given.clients]
        print("\n".join(f"| {' | '.join(line)} |" for line in [HE_HEADER, ("---:",) * len(HE_HEADER), *cells]))
        return
    rows = [measure(clients, size, given.repeats) for size in given.size for clients in given.clients]
    print(table(rows))
    sys.exit(any(row.error > row.bound for row in rows))


if __name__ == "__main__":
    main()
