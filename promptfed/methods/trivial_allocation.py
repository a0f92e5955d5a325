"""The baselines of allocations: rules, an expert that knows the cell, and a real piece of a trajectory as a prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from promptfed.allocation.cell import Allocation, Floats, Ints, Trace
from promptfed.allocation.expert import as_preferred, expert, lowest
from promptfed.examples.base import Item
from promptfed.frozen_model import Kind
from promptfed.method import METHODS, Method
from promptfed.policies.model import played, random_actions, stacked
from promptfed.prompt_state import PromptState
from promptfed.scores import BETTER, LOSS
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split, Update


class TrivialAllocation(Method):
    """What needs no training. Shared: nothing. Personal: nothing."""

    model_kind: ClassVar[Kind] = "policy"
    trains: ClassVar[str] = "nothing"
    keeps: ClassVar[str] = "episodes"
    paper: ClassVar[str] = "none"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)

    @property
    def rounds(self) -> int:
        return 1

    @abstractmethod
    def play(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Return the mean reward and the late share of each episode, both ``(n,)``."""

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        split = data.val if len(data.val) else data.test
        scores = self.logits(NO_PROMPT, NO_PROMPT, self.setup.classes, split)
        loss, better = -scores[:, LOSS].mean().item(), scores[:, BETTER].mean().item()
        return Update(data.client, NO_PROMPT, len(split), loss, better), personal

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        return self.setup.policy.scores(split.items, *self.play(split.items))


class RuledAllocation(TrivialAllocation):
    """A rule that needs no model."""

    @abstractmethod
    def allocation(self, trace: Trace, preferred: Ints, rate: Floats, seeds: Sequence[int]) -> Allocation:
        """Return what is done.

        Args:
            trace: What comes, ``(n, steps, ...)``.
            preferred: What users prefer, ``(n, 1, users, levels)``.
            rate: What servers render, ``(n, 1, 1)``.
            seeds: Those of the episodes.
        """

    def play(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        episodes = [self.setup.policy.episode(item) for item in items]
        trace, preferred, rate = stacked(episodes)
        done = self.allocation(trace, preferred, rate, [episode.seed for episode in episodes])
        return played(trace, done, preferred, rate)


@METHODS.register("random_allocation")
class RandomAllocation(RuledAllocation):
    """Resolutions and shares at random: 0 of the normalised score."""

    name: ClassVar[str] = "random"

    def allocation(self, trace: Trace, preferred: Ints, rate: Floats, seeds: Sequence[int]) -> Allocation:
        return random_actions(trace, seeds)


@METHODS.register("preferred_allocation")
class PreferredAllocation(RuledAllocation):
    """What users prefer, with equal shares: the rule that an episode is compared with."""

    name: ClassVar[str] = "preferred, equal shares"

    def allocation(self, trace: Trace, preferred: Ints, rate: Floats, seeds: Sequence[int]) -> Allocation:
        return as_preferred(trace, preferred)


@METHODS.register("lowest_allocation")
class LowestAllocation(RuledAllocation):
    """The lowest resolution for all, with equal shares."""

    name: ClassVar[str] = "all lowest"

    def allocation(self, trace: Trace, preferred: Ints, rate: Floats, seeds: Sequence[int]) -> Allocation:
        return lowest(trace)


@METHODS.register("expert_allocation")
class ExpertAllocation(RuledAllocation):
    """An expert that knows the cell and searches in each slot: 100 of the normalised score."""

    name: ClassVar[str] = "searching expert"

    def allocation(self, trace: Trace, preferred: Ints, rate: Floats, seeds: Sequence[int]) -> Allocation:
        return expert(trace, preferred, rate)


@METHODS.register("trajectory_prompt")
class TrajectoryPrompt(TrivialAllocation):
    """The frozen policy behind the best five slots that were logged in the episode's own cell (Prompt-DT).

    The piece is shown where it was logged: it is not sent. Cells that take no part show one too.
    """

    name: ClassVar[str] = "trajectory prompt"
    paper: ClassVar[str] = "Prompt-DT: Xu et al. 2022, arXiv 2206.13499"
    requires: ClassVar[frozenset[str]] = frozenset({"play"})

    def play(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        model = self.setup.policy
        pieces = [model.episode(item).piece for item in items]
        return model.play(items, model.tokens(pieces) if pieces else None)
