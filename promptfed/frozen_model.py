"""The one thing that a method asks: a model that is frozen, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from promptfed.examples.base import Item
from promptfed.prompt_template import PromptTemplate
from promptfed.types import Split
from promptfed.usage import Usage

Kind = Literal["dual encoder", "language model", "forecaster", "policy", "oracle"]
OnPrepared = Callable[[int, int], None]
"""Is told (examples done, examples in all)."""


class FrozenModel(ABC):
    """A model that is asked and never trained.

    A *dual encoder* has an image and a text tower, of which gradients reach the prompt. A *language model* is one
    sequence model with gradients. A *forecaster* has gradients too, and reads series. A *policy* has gradients
    too, and acts in episodes. An *oracle* takes candidate prompts and returns scores, and nothing else.
    Whoever needs what only one kind has takes it from ``Setup.backbone``, ``Setup.features`` or ``Setup.oracle``.
    """

    kind: ClassVar[Kind]
    has_gradients: ClassVar[bool] = True
    """Whether the loss of a prompt can be differentiated through it."""
    examples: ClassVar[str] = "images"
    """What messages call the examples that it reads."""

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    @property
    @abstractmethod
    def name(self) -> str:
        """What the user calls it: ``tiny``, ``open_clip:ViT-B-16/openai``, ``minilm``, ``api``."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex SHA-256 of what it computes: the same weights in another file have the same one."""

    @property
    @abstractmethod
    def abilities(self) -> frozenset[str]:
        """What it can do that not every model of its kind can."""

    @abstractmethod
    def check_offers(self, needed: Iterable[str], what: str) -> None:
        """Raise ConfigError, naming models that would do, if it lacks an ability that ``what`` needs."""

    @abstractmethod
    def template_scores(self, template: str, split: Split, classes: Sequence[str]) -> Tensor:
        """Return the scores ``(n, classes)`` of a split's examples under a hand-written prompt, without training."""

    def scores_of_templates(self, templates: Sequence[str], split: Split, classes: Sequence[str]) -> Tensor:
        """Return ``template_scores`` under each of ``templates``, ``(templates, n, classes)``."""
        return torch.stack([self.template_scores(template, split, classes) for template in templates])

    @abstractmethod
    def usage(self) -> Usage:
        """Return what it was asked in this process since it was loaded."""

    @abstractmethod
    def verify_frozen(self) -> None:
        """Raise BackboneError if the model, where it is in this process, is not what was loaded."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what a run writes down about it, by which it is known again."""

    # ---------------------------------------------------------- what a model need not have: nothing by default

    @property
    def device(self) -> torch.device:
        """Where a prompt is trained against it."""
        return torch.device("cpu")

    @property
    def form(self) -> PromptTemplate | None:
        """How a prompt and an example are put together for it; None for a model that is not asked in words."""
        return None

    @property
    def is_paid(self) -> bool:
        """Whether every question costs money."""
        return False

    def prepare(self, items: Sequence[Item], on_progress: OnPrepared | None = None, *, patches: bool = False) -> None:
        """Compute once what depends on the examples alone; ``patches``: also features of image patches."""

    def account(
        self, stage: str | None = None, round: int | None = None, client: int | None = None
    ) -> AbstractContextManager[None]:
        """Write what is asked inside the block down for this stage, round and client; None keeps the outer one."""
        return nullcontext()

    def keep_account_in(self, run: Path) -> None:
        """Go on with the account that the run in this folder keeps of what was spent."""

    def recover_account(
        self, events: Iterable[Mapping[str, Any]] | None, *, has_checkpoints: bool, say: Callable[[str], None]
    ) -> None:
        """Compare the run's account with its event log, and add what it lacks. Raises RunError if both are gone."""

    def spent(self) -> Usage | None:
        """Return what the run's account holds; None: it keeps none."""
        return None

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        """Have long waits end once ``should_stop`` says so."""

    def check_answers(self) -> None:
        """Raise OracleError if too many questions were left without an answer of use."""

    def unanswered(self) -> dict[str, Any]:
        """Return what is to be said about questions without an answer; empty: nothing."""
        return {}

    def close(self) -> None:
        """Let go of connections and memory."""
