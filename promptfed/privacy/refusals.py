"""What does not go with a promise of privacy, each with its reason in one line."""

from __future__ import annotations

from collections.abc import Iterable

from promptfed.aggregators.base import AGGREGATORS, Aggregator
from promptfed.aggregators.mean import Mean
from promptfed.errors import ConfigError
from promptfed.method import Method
from promptfed.prompt_state import PromptState


def check_sum_is_enough(what: str, method: Method, rule: Aggregator) -> None:
    """Check that the server needs no more of a round than the sum of the changes.

    Args:
        what: What only shows the server a sum, for the message.
        method: The run's method.
        rule: What merges: the method's server side around the run's aggregator.

    Raises:
        ConfigError: It looks at every single update, or sends each client something else.
    """
    if method.trains.startswith("nothing") and method.access != "black box":
        raise ConfigError(f"{what} protects what is trained, and method '{method.name}' trains nothing: leave it out")
    if type(method).participants is not Method.participants:
        raise ConfigError(
            f"{what} does not go with method '{method.name}', which chooses itself who takes part in a round: choose "
            "another method"
        )
    if rule.needs == "each":
        only = [AGGREGATORS[name].needs == "each" for name in method.aggregators]
        is_own = method.server_side(Mean(Mean.Config())).needs == "each" or (bool(only) and all(only))
        fix = "another method" if is_own else "--aggregator mean, uniform, fedadam, norm_bound or another"
        fix = f"choose {fix} that needs no more than a mean"
        if is_own and method.for_sums:
            fix = _fix(method)
        raise ConfigError(
            f"{what} gives the server the sum of a round's changes, and {type(rule).__name__} of method "
            f"'{method.name}' looks at every single update: {fix}"
        )


def check_sends_changes(
    what: str, method: Method, clients: Iterable[int], broadcast: PromptState, update: PromptState
) -> None:
    """Check that all clients send changed copies of the same real numbers, which all of them were sent.

    Args:
        what: What acts on changes, for the message.
        method: The run's method.
        clients: All of them.
        broadcast: What a client is sent in round 1.
        update: An example of what it sends back.

    Raises:
        ConfigError: They send something else.
    """
    acts = f"{what} acts on changes of what clients are sent, and method '{method.name}'"
    if not update:
        raise ConfigError(f"{what} protects what clients send, and method '{method.name}' sends nothing: leave it out")
    for name, tensor in update.items():
        if not tensor.is_floating_point():
            raise ConfigError(f"{acts} sends '{name}' as whole numbers (tokens, texts)")
        if name not in broadcast or broadcast[name].shape != tensor.shape:
            raise ConfigError(f"{acts} sends '{name}', which clients are not sent: its own, or statistics of its data")
    for client in clients:
        if set(method.uploads(client, broadcast)) != set(update):
            fix = _fix(method) if method.for_sums else "choose another method"
            raise ConfigError(
                f"{acts} has tensors that only some clients send, so that nothing hides whose they are: {fix}"
            )


def _fix(method: Method) -> str:
    """Return what makes a sum enough for ``method``."""
    return f"use --set {' '.join(f'method.{name}={value}' for name, value in method.for_sums.items())}"
