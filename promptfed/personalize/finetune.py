"""Fine-tuning of the shared prompt on one client's own images, after the federation (Profit, arXiv 2310.04627)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from promptfed.errors import ConfigError
from promptfed.local_training import GradientMethod, LocalTraining, train_clients
from promptfed.method import Method
from promptfed.personalize.options import FinetuneOptions
from promptfed.prompt_state import PromptState
from promptfed.prompts.proximal import with_proximal_term
from promptfed.types import Broadcast, ClientData, ClientPrompt

SLOWER = 0.2
"""Learning rate over the run's, by default: small steps cost the shared prompt's abilities least (Profit's finding)."""


def finetune(
    method: Method, jobs: Sequence[tuple[ClientPrompt, ClientData]], round: int, options: FinetuneOptions
) -> list[ClientPrompt]:
    """What each client has, trained on by its images alone: the method's own loss and Profit's pull,
    ``L(p) + (lambda / 2) ||p - p_g||^2``, to where it starts: the shared prompt p_g that the client was sent.

    A method that keeps something to itself gives a new ``personal``; any other gives ``tuned``, a copy of all of the
    shared prompt. Clients are trained side by side, each as if it were alone. ``round`` names the stream of batches:
    one that the run has not used. Raises ConfigError if the method trains nothing by gradients, TrainingError for a
    loss that is not finite.
    """
    trained_by = require_trainable(method)
    sent = [Broadcast(round, prompt.shared) for prompt, _ in jobs]
    problems = []
    for broadcast, (prompt, data) in zip(sent, jobs, strict=True):
        problem = trained_by.problem(broadcast, data, prompt.personal)
        problems.append((data.client, with_proximal_term(problem, options.l2_to_global)))
    trained = train_clients(problems, local_training(trained_by.config, options), method.setup, round)
    found = []
    for broadcast, (prompt, data), (values, _) in zip(sent, jobs, trained, strict=True):
        own, kept = trained_by.split_update(values, broadcast, data, prompt.personal)
        if len(kept):
            found.append(replace(prompt, personal=kept))
        else:
            found.append(replace(prompt, tuned=PromptState({**broadcast.shared, **own})))
    return found


def require_trainable(method: Method) -> GradientMethod:
    """``method``, as one whose shared prompt a client can train by itself. Raises ConfigError if it is none."""
    if not isinstance(method, GradientMethod):
        raise ConfigError(f"{method.name} trains nothing by gradients: there is no prompt to fine-tune")
    return method


def local_training(config: LocalTraining, options: FinetuneOptions) -> LocalTraining:
    """The run's local training with the rate and epochs of ``options``, at a constant rate."""
    change = {"lr": options.lr or SLOWER * config.lr, "local_epochs": options.epochs, "schedule": "constant"}
    return config.model_copy(update=change)
