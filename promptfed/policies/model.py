"""A frozen model that acts in cells, behind a prompt of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from promptfed.allocation.cell import FEATURES, Allocation, Floats, Ints, Trace, as_allocation, make_trace, outcome
from promptfed.allocation.expert import as_preferred, at_random, expert
from promptfed.backbones.base import freeze, hash_tensors
from promptfed.errors import ConfigError
from promptfed.examples.base import Item
from promptfed.examples.episodes import EpisodeForm, EpisodeItem, Log
from promptfed.frozen_model import Kind, OnPrepared
from promptfed.local_model import LocalModel
from promptfed.policies.dt_network import CONTEXT, PARTS, PIECE, WIDTH, DecisionTransformer, greedy_actions
from promptfed.scores import allocation_scores
from promptfed.seeding import numpy_stream
from promptfed.types import Split
from promptfed.usage import Usage

EPISODES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class References:
    """What an episode brings without a model: mean rewards of random, preferred and expert allocations."""

    random: float
    preferred: float
    expert: float


class Policy(LocalModel):
    """The decision transformer behind what every model has. A prompt is tokens that stand before what it sees."""

    kind: ClassVar[Kind] = "policy"
    examples: ClassVar[str] = "episodes"
    does: ClassVar[str] = "acts in cells"

    def __init__(self, form: EpisodeForm, network: DecisionTransformer, device: torch.device) -> None:
        super().__init__("dt", device)
        self._form = form
        self.network: Any = freeze(network.to(device))
        self._loaded = self._weights_sha256()
        self._references: dict[str, References] = {}

    def __reduce__(self) -> tuple[type[Policy], tuple[Any, ...]]:
        """Pickle what it is made of; what is known of episodes is each process's own."""
        return Policy, (self.form, self.network, self.device)

    # ------------------------------------------------------------------------------------- what every model has

    @property
    def form(self) -> EpisodeForm:
        """What episodes look like."""
        return self._form

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"dt 1|{self._loaded}".encode()).hexdigest()

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({"play"})

    def _weights_sha256(self) -> str:
        return hash_tensors(self.network.state_dict().items())

    def template_scores(self, template: str, split: Split, classes: Sequence[str]) -> Tensor:
        """Return the scores of episodes that are played without a prompt (promptfed.scores)."""
        return self.scores(split.items, *self.play(split.items, None))

    def prepare(self, items: Sequence[Item], on_progress: OnPrepared | None = None, *, patches: bool = False) -> None:
        """Compute what episodes that are to be played bring without a model."""
        for number, item in enumerate(items, 1):
            if isinstance(item, EpisodeItem) and item.log is None:
                self.references(item)
            if on_progress is not None:
                on_progress(number, len(items))

    # ------------------------------------------------------------------------------------------------ episodes

    def logits(self, returns: Tensor, observations: Tensor, actions: Tensor, prompt: Tensor | None) -> Tensor:
        """Return the logits of actions (``DecisionTransformer.forward``); gradients flow to ``prompt``."""
        self._usage += Usage(model_rows=len(returns), model_tokens=returns.numel())
        out: Tensor = self.network(returns, observations, actions, prompt)
        return out

    def tokens(self, logs: Sequence[Log]) -> Tensor:
        """Return pieces of trajectories, all of one length, as prompts ``(n, tokens, WIDTH)``."""
        returns, observations, actions = (
            torch.from_numpy(np.stack([getattr(log, part) for log in logs])).to(self.device)
            for part in ("returns", "observations", "actions")
        )
        with torch.no_grad():
            tokens: Tensor = self.network.piece(returns, observations, actions)
        return tokens

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return WIDTH

    def neutral_tokens(self, count: int) -> Tensor:
        """Return the tokens ``(count, WIDTH)`` of slots in which nothing stands out, over and over, on the CPU."""
        slots = np.zeros((PIECE, FEATURES), dtype=np.float32)
        tokens = self.tokens([Log(slots, slots, np.full(PIECE, self.form.target, dtype=np.float32))])[0].cpu()
        return tokens.repeat(-(-count // (PIECE * PARTS)), 1)[:count].clone()

    @torch.no_grad()
    def play(self, items: Sequence[Item], prompt: Tensor | None) -> tuple[Tensor, Tensor]:
        """Play episodes, with the likeliest resolutions in each slot.

        Args:
            items: The episodes.
            prompt: Tokens ``(n or 1, tokens, WIDTH)``; None: there is no prompt.

        Returns:
            The mean reward of a slot and the share of users that are late, both ``(n,)`` float64.
        """
        parts = []
        for first in range(0, len(items), EPISODES_AT_ONCE):
            some = [self.episode(item) for item in items[first : first + EPISODES_AT_ONCE]]
            own = prompt
            if prompt is not None:
                own = prompt if len(prompt) == 1 else prompt[first : first + EPISODES_AT_ONCE]
            parts.append(self._play(some, own))
        if not parts:
            return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        rewards, late = (torch.cat(some) for some in zip(*parts, strict=True))
        return rewards, late

    def _play(self, items: Sequence[EpisodeItem], prompt: Tensor | None) -> tuple[Tensor, Tensor]:
        trace, preferred, rate = stacked(items)
        n, steps = trace.snr.shape[:2]
        seen = torch.from_numpy(trace.observations).to(self.device)
        done = torch.zeros(n, steps, FEATURES, device=self.device)
        returns = torch.full((n, steps), self.form.target, device=self.device)
        rewards, late = np.zeros((n, steps)), np.zeros((n, steps))
        for step in range(steps):
            first = max(0, step + 1 - CONTEXT)
            slots = slice(first, step + 1)
            done[:, step] = greedy_actions(
                self.logits(returns[:, slots], seen[:, slots], done[:, slots], prompt)[:, -1]
            )
            allocation = as_allocation(done[:, step].double().cpu().numpy())
            rewards[:, step], late[:, step] = outcome(trace[:, step], allocation, preferred[:, 0], rate[:, 0])
        return torch.from_numpy(rewards.mean(1)), torch.from_numpy(late.mean(1))

    def episode(self, item: Item) -> EpisodeItem:
        """Return ``item`` as what it is. Raises ConfigError for an example that is no episode."""
        if not isinstance(item, EpisodeItem):
            raise ConfigError(
                f"backbone '{self.name}' acts in cells, and these examples are no episodes: use task allocation"
            )
        return item

    def references(self, item: Item) -> References:
        """Return what ``item`` brings without a model, which is computed once in a process."""
        episode = self.episode(item)
        name = episode.content_id()
        if name not in self._references:
            trace, preferred, rate = stacked([episode])
            by_rule = (
                random_actions(trace, [episode.seed]),
                as_preferred(trace, preferred),
                expert(trace, preferred, rate),
            )
            means = [played(trace, done, preferred, rate)[0].item() for done in by_rule]
            self._references[name] = References(*means)
        return self._references[name]

    def scores(self, items: Sequence[Item], rewards: Tensor, late: Tensor) -> Tensor:
        """Return the scores ``(n, 7)`` of episodes (promptfed.scores)."""
        references = [self.references(item) for item in items]
        cells = [id(self.episode(item).cell) for item in items]
        at_random, preferred, of_expert = (
            torch.tensor([getattr(one, name) for one in references], dtype=torch.float64) for name in NAMES
        )
        return allocation_scores(rewards, late, at_random, preferred, of_expert, cells)


NAMES = ("random", "preferred", "expert")


def stacked(items: Sequence[EpisodeItem]) -> tuple[Trace, Ints, Floats]:
    """Return what comes in episodes ``(n, steps, ...)``, and what belongs to their cells, with a place for steps.

    Preferences are ``(n, 1, users, levels)`` and rates ``(n, 1, 1)``.
    """
    traces = [make_trace(item.cell, item.steps, item.seed) for item in items]
    trace = Trace(*(np.stack([getattr(one, name) for one in traces]) for name in ("tiles", "snr", "change")))
    preferred = np.stack([item.cell.preferred for item in items])
    return trace, preferred[:, None], np.array([[[item.cell.rate]] for item in items])


def random_actions(trace: Trace, seeds: Sequence[int]) -> Allocation:
    """Return random allocations for episodes ``(n, steps, ...)``, which depend on each one's seed alone."""
    steps = trace.snr.shape[1]
    made = [at_random((steps,), numpy_stream(seed, "random allocation")) for seed in seeds]
    return Allocation(np.stack([one.index for one in made]), np.stack([one.share for one in made]))


def played(trace: Trace, allocation: Allocation, preferred: Ints, rate: Floats) -> tuple[Tensor, Tensor]:
    """Return mean reward and late share of episodes ``(n, steps, ...)`` with ``allocation``, both ``(n,)``."""
    rewards, late = outcome(trace, allocation, preferred, rate)
    return torch.from_numpy(rewards.mean(1)), torch.from_numpy(late.mean(1))
