"""Weights that ship inside the package: read, compared with the SHA-256 beside them, and put into their network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

import torch
from torch import nn

from promptfed.errors import BackboneError, FormatError
from promptfed.readers.json_reader import parse_json
from promptfed.readers.tensors import parse_tensors

REINSTALL = "reinstall the package: pip install --force-reinstall promptfed"
Network = TypeVar("Network", bound=nn.Module)


def read_weights(name: str, folder: Traversable) -> tuple[dict[str, Any], bytes]:
    """Return the content of ``config.json`` and of ``weights.safetensors`` in ``folder``.

    Args:
        name: What messages call the model.
        folder: Where both are.

    Raises:
        BackboneError: A file is missing, or the weights' SHA-256 is not the one in the config.
    """
    try:
        config: dict[str, Any] = parse_json((folder / "config.json").read_bytes())
        weights = (folder / "weights.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise BackboneError(f"backbone '{name}' cannot be read from {folder}: {error}; {REINSTALL}") from error
    if (digest := hashlib.sha256(weights).hexdigest()) != config.get("sha256"):
        raise BackboneError(
            f"backbone '{name}' is damaged: {folder / 'weights.safetensors'} has SHA-256 {digest[:12]}..., config.json "
            f"says {str(config.get('sha256'))[:12]}...; {REINSTALL}"
        )
    return config, weights


def load_network(name: str, package: str, make: Callable[[], Network]) -> Network:
    """Return what ``make`` makes with the weights in ``package``; the random numbers of others stay what they are.

    Raises:
        BackboneError: As ``read_weights``, or the weights are of another network.
    """
    folder = files(package)
    _, weights = read_weights(name, folder)
    try:
        with torch.random.fork_rng(devices=[]):
            network = make()
        network.load_state_dict(parse_tensors(weights))
    except (RuntimeError, FormatError) as error:
        raise BackboneError(f"backbone '{name}' in {folder} is not of this version: {error}; {REINSTALL}") from error
    return network
