"""After the last round: is what was trained better than the zero-shot prompt? The clients' validation data decides.

A search that was given few queries can end with a prompt that is worse than the hand-written one. Each client scores
both on its own validation examples; nobody looks at test data. What is sent are counts: two for what was trained, and
two for each hand-written prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from promptfed.blackbox.base import BlackBoxMethod
from promptfed.blackbox.oracles.query import Candidate
from promptfed.federation import Federation
from promptfed.kept_text import marked
from promptfed.local_only_wrapper import LocalOnlyWrapper
from promptfed.measures.base import Measure
from promptfed.measures.selection import Selection
from promptfed.prompt_state import PromptState
from promptfed.runs.personal_store import update_personal
from promptfed.truth import truth_of
from promptfed.types import ClientData, FederatedTask, FederationState

COUNT_BYTES = 4


@dataclass(frozen=True)
class PromptChoice:
    """Validation accuracies in 0..1 of the ``trained`` prompt and the best ``zero_shot`` one, over all clients.

    With another measure of option ``selection`` they are its means over the examples.

    ``clients``: how many deploy the latter.
    """

    trained: float
    zero_shot: float
    clients: int
    bytes_up: int


def choose(
    federation: Federation, state: FederationState, task: FederatedTask
) -> tuple[FederationState, PromptChoice | None]:
    """Return ``state``, marked where the zero-shot prompt is better, and the figures; None if there is no choice.

    An accuracy (or the figure of another measure, as option ``selection`` says) is the mean of two: among the classes
    of the client's own examples, and among all of them. Equal ones leave what was trained. The hand-written prompt is
    the one that zero-shot itself would take. A method that shares nothing leaves the choice to each client, any other
    makes one for all.
    """
    method = federation.method.inner if isinstance(federation.method, LocalOnlyWrapper) else federation.method
    clients = [data for data in task.clients if data.client in state.personal and len(data.val)]
    if not isinstance(method, BlackBoxMethod) or not method.config.keep_zero_shot or not clients:
        return state, None
    if any(Candidate(text).needs() - method.oracle.abilities for text in method.setup.templates):
        return state, None  # this oracle has no zero-shot
    selection = Selection.of(method.setup.selection)
    counts = np.stack([_counts(federation, state, method, data, selection) for data in clients])
    sizes = np.array([len(data.val) for data in clients])
    shared, choices, n_zero_shot = state.shared, dict[int, PromptState](), 0
    if len(shared):
        best = _better(counts.sum(0), selection)
        if best is not None:
            shared, n_zero_shot = marked(shared, method.setup.templates[best]), len(state.personal)
    else:
        for data, row in zip(clients, counts, strict=True):
            best = _better(row, selection)
            if best is not None:
                choices[data.client] = marked(state.personal[data.client], method.setup.templates[best])
                n_zero_shot += 1
    means = counts.sum(0).mean(1) / sizes.sum()
    figures = PromptChoice(
        float(means[0]),
        float(means[1 + _template(counts.sum(0), selection)]),
        n_zero_shot,
        COUNT_BYTES * counts.size * bool(len(shared)),
    )
    if n_zero_shot:
        personal = update_personal(state.personal, choices, state.round)
        state = replace(state, shared=shared, personal=personal)
    return state, figures


def _counts(
    federation: Federation, state: FederationState, method: BlackBoxMethod, data: ClientData, selection: Selection
) -> np.ndarray:
    """Return ``(1 + templates, 2)``: right validation examples of the trained prompt and of each hand-written one.

    Of another measure than accuracy it is the sum of its numbers.

    The columns are among the client's own classes and among all.
    """
    classes, split = method.setup.classes, data.val
    trained = federation.method.client_logits(federation.prompt(state, data.client), classes, split)
    template_scores = method.scored([Candidate(text) for text in method.setup.templates], classes, split)
    return np.stack([_sums(scores, data, selection.measure) for scores in (trained, *template_scores)])


def _sums(scores: Tensor, data: ClientData, measure: Measure) -> np.ndarray:
    own_scores = torch.full_like(scores, -torch.inf)
    own_scores[:, list(data.classes)] = scores[:, list(data.classes)]
    truth = truth_of(measure, data.val, scores.shape[1])
    return np.array([measure.total(values, truth).sums[0] for values in (own_scores, scores)])


def _template(counts: np.ndarray, selection: Selection) -> int:
    """Return the hand-written prompt with the most right among all classes, the first of equals, as zero-shot does."""
    return selection.best(counts[1:, 1].tolist())


def _better(counts: np.ndarray, selection: Selection) -> int | None:
    """Return the hand-written prompt if it is better than the trained one."""
    best = _template(counts, selection)
    trained, zero_shot = (selection.merit(counts[row].sum()) for row in (0, 1 + best))
    return best if zero_shot > trained else None
