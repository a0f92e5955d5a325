"""FedPepTAO's server: momentum over the differences of successive displacements, and control variates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorConfig
from promptfed.prompt_state import PromptState
from promptfed.types import Update

ROUND = "round"
DISPLACEMENT, MOMENTUM, CONTROL, CLIENT_CONTROL = "displacement/", "momentum/", "control/", "control of client/"
DECAY, LEAST = 0.99, 1e-4
"""The server's learning rate is multiplied by this in each round, down to that."""


class AcceleratedMean(Aggregator):
    """``w <- wbar - eta v`` with ``v <- momentum v + (1 - momentum) g + c - sum_k p_k c_k`` (Che et al. 2023).

    ``wbar = sum_k p_k w_k`` with p_k the shares of samples of those who replied, ``D = w - wbar`` a round's
    displacement, and ``g = D of the last round - D`` in the place of a gradient. Control variates: ``c_k <- c_k - c +
    (w - w_k) / (steps_k rate)``, and ``c <- c + (share of clients that replied) * mean_k (change of c_k)``, weighted by
    steps. The first round is a plain mean; ``eta = server_lr * 0.99^(round - 1)``, at least 1e-4.

    Server memory: ``round``, and by name of a tensor ``displacement/``, ``momentum/``, ``control/`` and, for each
    client that ever replied, ``control of client/K/``.

    Different from the released code: every client's step starts from the same momentum. There it starts from what the
    client before left, so that the result depends on their order.

    Args:
        server_lr: eta of the first round.
        momentum: Share of the last step that is taken again.
        clients: How many there are in all.
        steps: From a client's number of samples to its steps in a round.
        rate: From a round (from 1) to the clients' learning rate.
    """

    def __init__(
        self,
        server_lr: float,
        momentum: float,
        clients: int,
        steps: Callable[[int], int],
        rate: Callable[[int], float],
        config: AggregatorConfig | None = None,
    ) -> None:
        super().__init__(config or AggregatorConfig())
        self.server_lr, self.momentum, self.clients = server_lr, momentum, clients
        self.steps, self.rate = steps, rate

    def eta(self, round: int) -> float:
        """Return the server's learning rate of ``round``."""
        return max(LEAST, self.server_lr * DECAY ** (round - 1))

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({ROUND: torch.zeros(1, dtype=torch.int64)})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        round = int(server[ROUND]) + 1
        prompt, state = dict(shared), {**server, ROUND: torch.tensor([round])}
        for name in updates[0].shared:
            before = shared[name].double()
            mean = _mean([u.shared[name].double() for u in updates], [u.samples for u in updates])
            pull = self._controls(name, before, updates, round, state)
            if DISPLACEMENT + name in server:
                last = server.get(MOMENTUM + name, torch.zeros(())).double()
                gradient = server[DISPLACEMENT + name].double() - (before - mean)
                step = self.momentum * last + (1 - self.momentum) * gradient + pull
                prompt[name], state[MOMENTUM + name] = mean - self.eta(round) * step, step
            else:
                prompt[name] = mean
            state[DISPLACEMENT + name] = before - mean
        return PromptState(prompt), PromptState(state)

    def _controls(
        self, name: str, before: Tensor, updates: Sequence[Update], round: int, state: dict[str, Tensor]
    ) -> Tensor:
        """Bring the control variates of one tensor up to date in ``state``; returns ``c - sum_k p_k c_k``."""
        control = state.get(CONTROL + name, torch.zeros_like(before)).double()
        changes, controls, steps = [], [], []
        for update in updates:
            steps.append(self.steps(update.samples))
            change = (before - update.shared[name].double()) / (steps[-1] * self.rate(round)) - control
            key = f"{CLIENT_CONTROL}{update.client}/{name}"
            state[key] = state.get(key, torch.zeros_like(before)).double() + change
            changes.append(change)
            controls.append(state[key])
        control = control + len(updates) / self.clients * _mean(changes, steps)
        state[CONTROL + name] = control
        return control - _mean(controls, [update.samples for update in updates])


def _mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean."""
    shares = torch.tensor(list(weights), dtype=torch.float64)
    mean: Tensor = torch.tensordot(shares / shares.sum(), torch.stack(list(tensors)), 1)
    return mean
