"""Models that act, by name: the bundled ``dt``. `scripts/make_decision_transformer.py` made its weights."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

import torch

from promptfed.backbones.device import pick_device
from promptfed.errors import BackboneError, ConfigError, FormatError, unknown_name
from promptfed.examples.episodes import EpisodeForm
from promptfed.policies.dt_network import DecisionTransformer
from promptfed.policies.model import Policy
from promptfed.policies.names import POLICIES
from promptfed.readers.json_reader import parse_json
from promptfed.readers.tensors import parse_tensors

REINSTALL = "reinstall the package: pip install --force-reinstall promptfed"


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
    folder = files("promptfed.policies.dt_weights")
    try:
        config: dict[str, Any] = parse_json((folder / "config.json").read_bytes())
        weights = (folder / "weights.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise BackboneError(f"backbone 'dt' cannot be read from {folder}: {error}; {REINSTALL}") from error
    if (digest := hashlib.sha256(weights).hexdigest()) != config.get("sha256"):
        raise BackboneError(
            f"backbone 'dt' is damaged: {folder / 'weights.safetensors'} has SHA-256 {digest[:12]}..., config.json "
            f"says {str(config.get('sha256'))[:12]}...; {REINSTALL}"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            network = DecisionTransformer()
        network.load_state_dict(parse_tensors(weights))
    except (RuntimeError, FormatError) as error:
        raise BackboneError(f"backbone 'dt' in {folder} is not of this version: {error}; {REINSTALL}") from error
    return Policy(form, network, pick_device(device))
