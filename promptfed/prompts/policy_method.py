"""What all methods on policies share: tokens that are trained on logged episodes, and scores of played ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.examples.episodes import EpisodeItem, Log
from promptfed.frozen_model import Kind
from promptfed.local_training import GradientTraining, LocalObjective, LocalSteps
from promptfed.policies.dt_network import CONTEXT, action_loss, right_choices
from promptfed.policies.model import Policy
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, ClientPrompt, Split


class PolicyConfig(LocalSteps):
    """Options of methods that train a prompt of a policy."""

    lr: float = Field(0.05, gt=0, description="learning rate")
    local_epochs: int = Field(4, ge=1, description="epochs over a client's episodes in a round")
    windows: int = Field(4, ge=1, description="stretches of an episode, drawn anew, that a step looks at")
    best: float = Field(
        0.5, gt=0, le=1, description="share of a client's episodes, those with the highest rewards, that are learned"
    )


class PolicyMethod(GradientTraining):
    """A method whose clients train tensors that become a prompt of a frozen policy.

    The loss is how far the policy's actions are from those in the client's own episodes. A method says how its tensors
    become a prompt (``tokens``). By default all its tensors are trained, sent, and played with.
    """

    model_kind: ClassVar[Kind] = "policy"
    requires: ClassVar[frozenset[str]] = frozenset({"play"})
    keeps: ClassVar[str] = "episodes"
    mixes_examples: ClassVar[str] = "a client learns its best episodes, and which these are depends on all of them"
    config: PolicyConfig

    def __init__(self, config: PolicyConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.model: Policy = setup.policy

    @property
    def lr_multipliers(self) -> Mapping[str, float]:
        """What the learning rate of some tensors is multiplied by."""
        return {}

    @abstractmethod
    def tokens(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the prompt ``(1, tokens, width)``; gradients flow to ``tensors``, on the model's device."""

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        logs = best_logs([self.model.episode(item) for item in data.train.items], self.config.best)
        draw = torch_stream(self.setup.seed, "stretches", broadcast.round, data.client)
        device = self.model.device

        def loss(parameters: Mapping[str, Tensor], features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            parts = []
            for row in rows.tolist():
                log = logs[row]
                starts = torch.randint(0, len(log.rewards) - CONTEXT + 1, (self.config.windows,), generator=draw)
                parts += [(log.part(first, CONTEXT), log.returns[first : first + CONTEXT]) for first in starts.tolist()]
            returns = torch.from_numpy(np.stack([numbers for _, numbers in parts])).to(device)
            seen = torch.from_numpy(np.stack([log.observations for log, _ in parts])).to(device)
            done = torch.from_numpy(np.stack([log.actions for log, _ in parts])).to(device)
            out = self.model.logits(returns, seen, done, self.tokens(parameters))
            right = right_choices(out.detach(), done).reshape(len(rows), -1).mean(1)
            return action_loss(out, done).mean(), torch.stack([1 - right, right], 1)

        return LocalObjective(
            self.start(broadcast, personal),
            torch.ones(len(logs), dtype=torch.int64),
            loss,
            lr_multipliers=self.lr_multipliers,
        )

    def start(self, broadcast: Broadcast, personal: PromptState) -> PromptState:
        """Return where a client's training begins."""
        return broadcast.shared

    # ------------------------------------------------------------------------------------------- prediction

    def prompt(self, shared: PromptState, personal: PromptState) -> Tensor:
        """Return the prompt that a client plays with, without a gradient."""
        with torch.no_grad():
            tensors = {**shared, **personal}
            return self.tokens({name: tensor.to(self.model.device) for name, tensor in tensors.items()})

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        return self._scores(self.prompt(shared, personal), split)

    def client_logits(self, prompt: ClientPrompt, classes: Sequence[str], split: Split) -> Tensor:
        """As every method's; where two prompts are mixed in feature space, it is their tokens."""
        pair, general = self.ends(prompt)
        if general is None:
            return self.logits(*pair, classes, split)
        return self._scores(torch.lerp(self.prompt(*general), self.prompt(*pair), prompt.alpha), split)

    def _scores(self, prompt: Tensor, split: Split) -> Tensor:
        return self.model.scores(split.items, *self.model.play(split.items, prompt))


def best_logs(episodes: Sequence[EpisodeItem], share: float) -> list[Log]:
    """Return what was logged in the ``share`` of episodes with the highest rewards, at least one, in their order.

    Raises ConfigError for an episode without a log.
    """
    logs = [episode.log for episode in episodes if episode.log is not None]
    if len(logs) < len(episodes):
        raise ConfigError("a client can learn nothing from an episode that was not logged")
    count = max(1, round(share * len(logs)))
    means = np.array([log.rewards.mean(dtype=np.float64) for log in logs])
    chosen = np.sort(np.argsort(-means, kind="stable")[:count])
    return [logs[place] for place in chosen]
