"""A prompt as a run gives it away: its tensors, and what can be read in them."""

from __future__ import annotations

from dataclasses import dataclass, field

from promptfed.errors import RunError
from promptfed.method import Method
from promptfed.prompt_state import PromptState
from promptfed.prompts.nearest_words import NearestWords, nearest_words
from promptfed.types import ClientPrompt


@dataclass(frozen=True)
class LearnedPrompt:
    """What ``client`` deploys after training; None: what somebody gets who never took part.

    ``state`` holds the tensors. ``method`` is the learner that reads them.
    """

    client: int | None
    state: ClientPrompt
    method: Method = field(repr=False)

    @property
    def shared(self) -> PromptState:
        """The part that the server sent."""
        return self.state.shared

    @property
    def personal(self) -> PromptState:
        """The part that never left the client; empty where there is none."""
        return self.state.personal

    @property
    def text_contexts(self) -> PromptState:
        """The learned contexts ``(n_ctx, dim)`` or ``(classes, n_ctx, dim)`` that stand beside a class name.

        Empty where the method learns none.
        """
        (shared, personal), _ = self.method.ends(self.state)
        return self.method.text_contexts(shared, personal)

    def nearest_words(
        self, count: int = 5, metric: str = "euclidean", *, contexts: PromptState | None = None
    ) -> NearestWords:
        """Return the vocabulary words that lie nearest to each learned context vector, as CoOp's table does.

        Args:
            count: How many words a vector gets.
            metric: "euclidean" or "cosine" (1 - cosine), among the token embeddings of the text tower.
            contexts: Those to look at; None: all of ``text_contexts``.

        Returns:
            A table that prints, and that a notebook shows; iterate over its rows for the words.

        Raises:
            RunError: The method learns no text context.
            ConfigError: ``count`` or ``metric`` is of no use.
        """
        contexts = self.text_contexts if contexts is None else contexts
        if not len(contexts):
            raise RunError(
                f"{self.method.name} learns no text context but {self.method.trains}: nearest words are there for "
                "methods such as promptfl (promptfed list methods)"
            )
        setup = self.method.setup
        return nearest_words(
            contexts,
            setup.backbone.token_embeddings(),
            classes=setup.classes,
            backbone=setup.backbone.name,
            count=count,
            metric=metric,
        )

    def __repr__(self) -> str:
        owner = "somebody who never took part" if self.client is None else f"client {self.client}"
        personal = f", personal {self.personal!r}" if len(self.personal) else ""
        return f"<prompt of {owner}: {self.method.name}, shared {self.shared!r}{personal}>"
