"""Which methods can protect single examples: those that train everything by a mean of losses, one for each example."""

from __future__ import annotations

from promptfed.errors import ConfigError
from promptfed.local_training import GradientTraining, LocalTraining
from promptfed.method import METHODS, Method


def check_example_dp(method: Method) -> GradientTraining:
    """Return ``method`` as one whose clients can be trained by DP-SGD.

    Raises:
        ConfigError: It cannot, or not with its options; the message says why.
    """
    if isinstance(method, GradientTraining) and method.protects_examples:
        if why := _obstacle_in_options(method):
            raise ConfigError(f"privacy.dp=example does not go with {why}")
        return method
    fitting = ", ".join(name for name in METHODS if vars(METHODS[name]).get("example_dp"))
    raise ConfigError(
        f"privacy.dp=example does not go with {method.name}: {_obstacle(method)}; use one of {fitting}, or "
        "privacy.dp=client"
    )


def _obstacle(method: Method) -> str:
    if method.trains.startswith("nothing"):
        return "it trains nothing"
    if method.access == "black box" or not isinstance(method, GradientTraining):
        return "its clients do not go by gradients, so there is no gradient of an example to clip"
    if method.mixes_examples:
        return method.mixes_examples
    if method.keeps not in ("images", "texts"):
        return "a part of its prompt stays at the client and is trained without noise, and what is sent depends on it"
    return "it does not say that its loss is a mean of losses, one for each example (example_dp)"


def _obstacle_in_options(method: GradientTraining) -> str:
    config = method.config
    if getattr(config, "label_space", "all") == "own":
        return (
            "method.label_space=own: a single example decides whether its class is among those of the client, so use "
            "method.label_space=all"
        )
    if not isinstance(config, LocalTraining):
        return ""
    if config.class_sample is not None:
        return (
            "method.class_sample: each example's loss depends on the classes of all others of its step, so use "
            "method.class_sample=null"
        )
    if config.loss == "sigmoid" and method.setup.backbone.logit_bias is None:
        return (
            "method.loss=sigmoid on a model without a bias: the bias is a mean over the client's images, so use "
            "method.loss=cross_entropy"
        )
    return ""
