"""Models that act, by name, and directions of their prompts: the bundled ``dt``.

`scripts/make_decision_transformer.py` made its weights, `scripts/make_prompt_basis.py` the directions.
"""

from __future__ import annotations

from promptfed.backbones.device import pick_device
from promptfed.bundled_weights import load_network
from promptfed.errors import ConfigError, unknown_name
from promptfed.examples.episodes import EpisodeForm
from promptfed.policies.dt_network import DecisionTransformer
from promptfed.policies.model import Policy
from promptfed.policies.names import POLICIES
from promptfed.policies.prompt_basis import PromptBasis


def load_policy(name: str, form: EpisodeForm, *, device: str = "cpu", precision: str = "float32") -> Policy:
    """Load a frozen policy.

    Args:
        name: "dt".
        form: What episodes look like.
        device: "cpu", "cuda", "cuda:1" or "auto".
        precision: "float32": the model is too small to gain by less.

    Raises:
        ConfigError: The name or the precision is unknown.
        BackboneError: A file is missing, or its SHA-256 is not the one in the config.
    """
    if name not in POLICIES:
        raise unknown_name("backbone", name, list(POLICIES))
    if precision != "float32":
        raise ConfigError(f"precision '{precision}' does not go with backbone '{name}': leave it out")
    network = load_network(name, "promptfed.policies.dt_weights", DecisionTransformer)
    return Policy(form, network, pick_device(device))


def load_basis() -> PromptBasis:
    """Load the bundled directions of prompts of ``dt``, on the CPU.

    Raises:
        BackboneError: A file is missing, or its SHA-256 is not the one in the config.
    """
    return load_network("dt", "promptfed.policies.dt_basis", PromptBasis)
