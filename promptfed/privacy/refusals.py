"""What does not go with a promise of privacy, each with its reason in one line."""

from __future__ import annotations

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
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
    if type(method).participants is not Method.participants:
        raise ConfigError(
            f"{what} does not go with method '{method.name}', which chooses itself who takes part in a round: choose "
            "another method"
        )
    if rule.needs == "each":
        raise ConfigError(
            f"{what} gives the server the sum of a round's changes, and {_named(rule)} looks at every single update: "
            "choose --aggregator mean, uniform, fedavgm, fedadam, norm_bound or another that needs no more than a mean"
        )


def check_sends_changes(what: str, method: str, broadcast: PromptState, update: PromptState) -> None:
    """Check that clients send changed copies of real numbers that all of them were sent.

    Args:
        what: What acts on changes, for the message.
        method: The method's name.
        broadcast: What a client is sent in round 1.
        update: An example of what it sends back.

    Raises:
        ConfigError: It sends something else.
    """
    for name, tensor in update.items():
        if not tensor.is_floating_point():
            why = f"sends '{name}' as whole numbers (tokens, texts)"
        elif name not in broadcast or broadcast[name].shape != tensor.shape:
            why = f"sends '{name}', which clients are not sent: a tensor of its own, or statistics of its data"
        else:
            continue
        raise ConfigError(f"{what} acts on changes of what clients are sent, and method '{method}' {why}")
    if not update:
        raise ConfigError(f"{what} protects what clients send, and method '{method}' sends nothing: leave it out")


def _named(rule: Aggregator) -> str:
    return f"'{rule}'" if not isinstance(rule, AggregatorWrapper) else f"the server side {type(rule).__name__}"
