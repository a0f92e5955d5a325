"""The server's hyper-network of pFedPG: it makes each client's prompt from a descriptor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorConfig
from promptfed.local_training import Parameters
from promptfed.prompt_state import PromptState
from promptfed.types import Update


def descriptor_of(client: int) -> str:
    """Return the name of a client's descriptor."""
    return f"descriptor/{client}"


def mean_descriptor(phi: Mapping[str, Tensor]) -> Tensor:
    """Return the mean of the clients' descriptors ``(width,)``."""
    return torch.stack([tensor for name, tensor in phi.items() if name.startswith("descriptor/")]).mean(0)


def generate(phi: Mapping[str, Tensor], descriptor: Tensor) -> Tensor:
    """Return the prompt ``(n_ctx, width)`` of ``descriptor`` ``(width,)``: the base plus a mixture of its tokens.

    The mixture ``W_O softmax(W_Q d . W_K base / sqrt(width)) W_V base`` is the same on each token.
    """
    base = phi["base"]
    scores = (base @ phi["key"].T) @ (phi["query"] @ descriptor) / base.shape[1] ** 0.5
    prompt: Tensor = base + phi["out"] @ (scores.softmax(0) @ (base @ phi["value"].T))
    return prompt


class HyperNetwork(Aggregator):
    """Aggregator that takes one gradient step on ``1/2 sum_n (n_i / n) |P_n(phi) - P~_n|^2`` over the replies.

    ``phi <- phi - eta sum_n (n_i / n) J_n(phi)^T (P_n - P~_n)``.

    Server memory, with adamw: ``NAME/step``, ``NAME/exp_avg``, ``NAME/exp_avg_sq`` of every parameter that ever
    moved. The descriptor of a client that did not reply stays as it is, and so does its memory.
    """

    def __init__(self, prompt: str, optimizer: str, lr: float) -> None:
        super().__init__(AggregatorConfig())
        self.prompt, self.optimizer, self.lr = prompt, optimizer, lr

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        """Return the prompt of ``client``, or that of the mean descriptor for a client without one."""
        descriptor = None if client is None else shared.get(descriptor_of(client))
        if descriptor is None:
            descriptor = mean_descriptor(shared)
        return PromptState({self.prompt: generate(shared, descriptor)})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        phi = {name: tensor.clone().requires_grad_(True) for name, tensor in shared.items()}
        optimizer = self._optimizer(phi, server)
        total = sum(update.samples for update in updates)
        with torch.enable_grad():
            prompts = [generate(phi, phi[descriptor_of(update.client)]) for update in updates]
            pulls = [
                update.samples / total * (prompt.detach() - update.shared[self.prompt])
                for prompt, update in zip(prompts, updates, strict=True)
            ]
            torch.autograd.backward(prompts, pulls)
        optimizer.step()
        memory = {
            f"{name}/{part}": value
            for name, tensor in phi.items()
            for part, value in optimizer.state.get(tensor, {}).items()
            if isinstance(value, Tensor)
        }
        return PromptState(phi), PromptState(memory)

    def _optimizer(self, phi: Parameters, server: PromptState) -> torch.optim.Optimizer:
        """Return the server's optimiser with its memory; it skips parameters without a gradient."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(phi.values(), lr=self.lr)
        optimizer = torch.optim.AdamW(phi.values(), lr=self.lr, weight_decay=0.0)
        for name, tensor in phi.items():
            parts = ("step", "exp_avg", "exp_avg_sq")
            if f"{name}/step" in server:
                optimizer.state[tensor] = {part: server[f"{name}/{part}"].clone() for part in parts}
        return optimizer
