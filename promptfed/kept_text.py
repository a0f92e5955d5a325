"""The mark in a state of prompts that says: validation chose the zero-shot prompt instead, and this is its text.

It is set after the last round (``promptfed.zero_shot_choice``) and travels with the state it stands in,
through checkpoints, evaluation, export and prediction. A federation that goes on training takes it off first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.prompt_state import PromptState
from promptfed.runs.personal_store import changed_personal, update_personal
from promptfed.types import ClientPrompt, FederationState

MARK = "kept_zero_shot"
"""Name of the tensor that holds the text, in UTF-8."""


def marked(state: PromptState, text: str) -> PromptState:
    """Return ``state`` with the mark that the zero-shot prompt ``text`` is deployed in its place."""
    return PromptState({**state, MARK: text_tensor(text)})


def kept_text(state: Mapping[str, object]) -> str | None:
    """Return the zero-shot prompt that ``state`` is marked with; None without a mark."""
    return text_of(state[MARK]) if MARK in state else None  # type: ignore[arg-type]


def kept_of(prompt: ClientPrompt) -> str | None:
    """Return the zero-shot prompt that a client with ``prompt`` deploys; None if it deploys what was trained."""
    shared = kept_text(prompt.shared)
    return kept_text(prompt.personal) if shared is None and prompt.alpha > 0 else shared


def carried(sent: PromptState, shared: PromptState) -> PromptState:
    """Return what is ``sent`` to a client with the mark of the ``shared`` state that it was made from."""
    text = kept_text(shared)
    return sent if text is None or MARK in sent else marked(sent, text)


def unmarked(state: FederationState) -> FederationState:
    """Return ``state`` as it was trained."""
    plain = {client: _plain(own) for client, own in changed_personal(state.personal).items() if MARK in own}
    if MARK not in state.shared and not plain:
        return state
    personal = update_personal(state.personal, plain, state.round + 1)  # the checkpoint of this round keeps its own
    return replace(state, shared=_plain(state.shared), personal=personal)


def kept_words(state: FederationState) -> str:
    """Say which clients deploy the zero-shot prompt after ``state``; empty if none does."""
    text = kept_text(state.shared)
    if text is not None:
        return f'kept zero-shot: "{text}"' if text.strip() else "kept zero-shot"
    count = sum(MARK in prompt for prompt in changed_personal(state.personal).values())
    return f"kept zero-shot at {count} of {len(state.personal)} clients" if count else ""


def _plain(state: PromptState) -> PromptState:
    return PromptState({name: tensor for name, tensor in state.items() if name != MARK})
