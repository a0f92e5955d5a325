"""What a run tells whoever watches it. The silent one serves scripts; `promptfed.report.live` draws on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptfed.types import Incident, Reply
from promptfed.usage import Usage


class Progress:
    """Every hook is optional to override; all are called in the main process, in order."""

    def features(self, done: int, total: int) -> None:
        """``done`` of ``total`` missing image features are computed."""

    def stage(self, name: str, rounds: int, clients_a_round: int, finished: int, bytes_sent: int = 0) -> None:
        """Start a federation, or continue it after ``finished`` rounds in which ``bytes_sent`` went up and down."""

    def client(self, name: str, reply: Reply) -> None:
        """Count a finished client of the stage."""

    def incident(self, name: str, incident: Incident) -> None:
        """Something went wrong with a round whose replies were in; by default a note."""
        self.note(f"{name}: {incident.why}")

    def round(
        self, name: str, round: int, loss: float, val_accuracy: float, bytes_sent: int, asked: Usage | None = None
    ) -> None:
        """Report a finished round.

        Args:
            name: The stage.
            round: The round.
            loss: Mean training loss.
            val_accuracy: Mean validation accuracy.
            bytes_sent: Bytes up and down over this round.
            asked: The whole run's usage of a black box so far; None without one.
        """

    def personalized(self, done: int, total: int) -> None:
        """``done`` of ``total`` clients have a prompt that ``personalize`` made."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class ComparisonProgress(Progress):
    """The same for many runs one after the other."""

    def begin(self, number: int, total: int, what: str, seconds_left: float | None) -> None:
        """Run ``number`` of ``total`` begins; ``seconds_left`` for it and the rest, None while nobody knows."""

    def end(self, figures: Mapping[str, Any]) -> None:
        """Report a finished run with accuracies ``local``, ``base``, ``new`` and ``hm``, as far as it has them."""
