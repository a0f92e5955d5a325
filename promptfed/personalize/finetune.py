"""Fine-tuning of the shared prompt on one client's own examples, after the federation (Profit, arXiv 2310.04627)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from promptfed.errors import ConfigError
from promptfed.local_training import GradientTraining, LocalSteps, train_clients
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
    """Train each client's prompt on its own examples, by the method's loss and Profit's proximal term.

    The loss is ``L(p) + (lambda / 2) ||p - p_g||^2``, with p_g the shared prompt that the client was sent. A method
    with a personal part returns a new ``personal``; any other returns ``tuned``, a copy of all of the shared prompt.
    Clients are trained side by side, each as if it were alone.

    Args:
        method: The run's method.
        jobs: Each client's prompt and data.
        round: Names the stream of batches: a round that the run has not used.
        options: Rate, epochs and strength of the pull.

    Raises:
        ConfigError: The method trains nothing by gradients.
        TrainingError: A loss is not finite.
    """
    trained_by = require_trainable(method)
    broadcasts = [Broadcast(round, prompt.shared) for prompt, _ in jobs]
    problems = []
    for broadcast, (prompt, data) in zip(broadcasts, jobs, strict=True):
        problem = trained_by.problem(broadcast, data, prompt.personal)
        problems.append((data.client, with_proximal_term(problem, options.l2_to_global)))
    results = train_clients(problems, local_training(trained_by.config, options), method.setup, round)
    prompts = []
    for broadcast, (prompt, data), (values, _) in zip(broadcasts, jobs, results, strict=True):
        shared, personal = trained_by.split_update(values, broadcast, data, prompt.personal)
        if len(personal):
            prompts.append(replace(prompt, personal=personal))
        else:
            prompts.append(replace(prompt, tuned=PromptState({**broadcast.shared, **shared})))
    return prompts


def require_trainable(method: Method) -> GradientTraining:
    """Return ``method`` as one whose shared prompt a client can train by itself.

    Raises:
        ConfigError: It is no such method.
    """
    if not isinstance(method, GradientTraining):
        raise ConfigError(f"{method.name} trains nothing by gradients: there is no prompt to fine-tune")
    return method


def local_training(config: LocalSteps, options: FinetuneOptions) -> LocalSteps:
    """Return the run's local training with the rate and epochs of ``options``, at a constant rate."""
    change = {"lr": options.lr or SLOWER * config.lr, "local_epochs": options.epochs, "schedule": "constant"}
    return config.model_copy(update=change)
