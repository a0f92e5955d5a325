"""FedYolo: a frozen model and one small prompt for each task, loaded when needed (Zhang et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.local_training import LocalObjective
from promptfed.method import METHODS, Shape, shapes
from promptfed.prompt_state import PromptState, tensors_under
from promptfed.prompts.domains import Domains
from promptfed.prompts.soft_prompt_method import SoftPromptConfig, SoftPromptMethod
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split


@METHODS.register("fedyolo")
class FedYolo(SoftPromptMethod):
    """One prompt for each task, averaged over the clients of that task; the others neither see nor change it.

    A client's task is its domain (a language, a product category), or itself where the data knows no domains; then
    nothing is averaged.

    Shared: ``task/k/prompt_embeddings`` ``(n, width)`` for task k, and with head=linear a head for each. A client is
    sent, trains and returns those of its own task only. Personal: nothing. Somebody who never took part is sent all
    and predicts by the mean of the scores over tasks; ``fit_newcomer`` gives it the task whose prompt has the least
    loss on its examples, and a client that joins trains that one on.

    Different from the paper: prompts in the place of its adapters, LoRA and visual prompts; all tasks have the same
    classes, and the head is frozen unless head=linear.
    """

    name: ClassVar[str] = "FedYolo"
    paper: ClassVar[str] = "Zhang et al. 2023, arXiv 2307.04905"
    trains: ClassVar[str] = "soft prompt (n, width) of the client's task"
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    classes_apart: ClassVar[bool] = True
    Config = SoftPromptConfig
    config: SoftPromptConfig

    def __init__(self, config: SoftPromptConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.tasks = Domains(setup)

    def init_shared(self) -> PromptState:
        """Return equal prompts for all tasks, so that somebody of no task starts as FedPrompt does."""
        start = self.start()
        return PromptState({f"{key_of(k)}{n}": t for k in range(len(self.tasks)) for n, t in start.items()})

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return TaskServer(aggregator, self.tasks)

    def uploads(self, client: int, sent: PromptState) -> dict[str, Shape]:
        return shapes(part_of(sent, key_of(self.tasks.of(client))))

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        key = self._key(broadcast.shared, data)
        inner = self.objective(plain(broadcast.shared, key), data.train)

        def loss(parameters: Mapping[str, Tensor], features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            return inner.loss(tensors_under(parameters, key), features, rows)

        return LocalObjective(part_of(broadcast.shared, key), inner.labels, loss)

    def _key(self, shared: PromptState, data: ClientData) -> str:
        """Return the key of the client's task, or of the one whose prompt suits a newcomer best."""
        return key_of(self.tasks.of(data.client)) if self.tasks.knows(data.client) else self._best(shared, data)

    def _best(self, shared: PromptState, data: ClientData) -> str:
        losses = {}
        for key in keys_in(shared):
            scores = self.scores_with(plain(shared, key), self.setup.classes, data.train)
            losses[key] = F.cross_entropy(scores, data.train.labels.to(scores.device)).item()
        return min(losses, key=lambda key: losses[key])

    def fit_newcomer(self, shared: PromptState, data: ClientData) -> PromptState:
        """Return what ``shared`` is where every task has the prompt that suits the newcomer best."""
        best = plain(shared, self._best(shared, data))
        return PromptState({key + name: tensor for key in keys_in(shared) for name, tensor in best.items()})

    # ------------------------------------------------------------------------------------------- prediction

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        scores = [self.scores_with(plain(shared, key), classes, split) for key in keys_in(shared)]
        return torch.stack(scores).mean(0)

    def one_insert(self, shared: PromptState, personal: PromptState) -> PromptState | None:
        keys = keys_in(shared)
        return plain(shared, keys[0]) if len(keys) == 1 else None


class TaskServer(AggregatorWrapper):
    """Sends a client what is of its task; all of it to somebody who never took part.

    A tensor is averaged over those who sent it, so that of a task without a client in the round stays as it is.
    """

    def __init__(self, inner: Aggregator, tasks: Domains) -> None:
        super().__init__(inner)
        self.tasks = tasks

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        everything = self.inner.broadcast(shared, server, client)
        return everything if client is None else part_of(everything, key_of(self.tasks.of(client)))


def key_of(task: int) -> str:
    """Return what the names of a task's tensors begin with."""
    return f"task/{task}/"


def keys_in(shared: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of all tasks in ``shared``."""
    return list(dict.fromkeys(name[: name.index("/", 5) + 1] for name in shared))


def part_of(shared: Mapping[str, Tensor], key: str) -> PromptState:
    """Return the tensors of one task."""
    return PromptState({name: tensor for name, tensor in shared.items() if name.startswith(key)})


def plain(shared: Mapping[str, Tensor], key: str) -> PromptState:
    """Return the tensors of one task under the names that insert and head know."""
    return PromptState(tensors_under(shared, key))
