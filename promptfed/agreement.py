"""What all parties of a federation agree on before round 1, as one value."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Agreement(BaseModel):
    """The same for the server and all clients, and kept by every run and bundle.

    Attributes:
        classes: The base classes, in the order of all scores.
        templates: Hand-written prompts with a place for the class name, or a black box's own.
        rounds: The planned rounds.
        seed: Of the partition and of public draws; never of noise that protects privacy.
        domains: The domain of client k at position k; empty where nobody said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...]
    templates: tuple[str, ...] = ()
    rounds: int = Field(ge=1)
    seed: int
    domains: tuple[str, ...] = ()

    @property
    def clients(self) -> int:
        """The number of clients, as far as ``domains`` says it; 0 where nobody said."""
        return len(self.domains)
