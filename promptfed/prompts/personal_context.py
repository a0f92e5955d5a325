"""Methods whose clients have a text context of their own beside the shared one."""

from __future__ import annotations

from typing import ClassVar

import torch

from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextMethod

LOCAL = "local"
"""Name of a client's own context among its personal tensors; the shared one is ``ctx``, of the same shape."""


def personal_context(shared: PromptState, personal: PromptState) -> PromptState:
    """Return ``{"ctx": ...}``: the client's own context, or the shared one for a client without one."""
    return PromptState({"ctx": personal[LOCAL] if LOCAL in personal else shared["ctx"]})


def towards_personal(shared: PromptState, personal: PromptState, alpha: float) -> PromptState:
    """Return ``personal`` with its own context moved back to ``(1 - alpha) ctx + alpha local``."""
    return PromptState({**personal, LOCAL: torch.lerp(shared["ctx"], personal[LOCAL], alpha)})


class PersonalContextMethod(ContextMethod):
    """A context method whose clients predict with ``local`` ``(n_ctx, dim)`` once they have it, else with ``ctx``."""

    keeps: ClassVar[str] = "images, own context"

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return personal_context(shared, personal)

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState | None:
        return towards_personal(shared, personal, alpha)
