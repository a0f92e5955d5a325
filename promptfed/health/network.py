"""What promptfed would use a network for, the variables that it reads, and a try of the hub where that is asked for."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from promptfed.health.check import Check

HUB = "https://huggingface.co"
SECONDS = 5.0
NAMES = {
    "hub": "data hf:NAME, backbones open_clip:MODEL/TAG and lm:NAME, promptfed push and pull of a repository",
    "download.pytorch.org and others": "data torchvision:NAME, where its files are not in --data-root",
    "your server": "oracles api and embeds, at --base-url alone",
    "your SuperLink": "promptfed flower and its sites, at the address that you give",
    "your trackers": "--observer wandb, mlflow or trackio, where they are set to a server",
}
"""Name on the network -> what for. Nothing else is asked, and nothing is reported to anybody."""
VARIABLES = (
    "PROMPTFED_CACHE", "PROMPTFED_CACHE_MAX", "PROMPTFED_CACHE_GB", "PROMPTFED_CONFIG", "PROMPTFED_STATE",
    "PROMPTFED_PLUGINS", "PROMPTFED_IMAGE_MB", "PROMPTFED_DEBUG", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT",
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HTTPS_PROXY", "NO_PROXY", "NO_COLOR", "SOURCE_DATE_EPOCH",
)  # fmt: skip
"""Environment variables that change what promptfed does; none of them holds a secret."""
SECRETS = ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY")
"""Variables of which only is said whether they are set."""


def network_checks(is_online: bool) -> Iterator[Check]:
    """Yield what a network is used for; the hub is tried only if ``is_online``."""
    hub = os.environ.get("HF_ENDPOINT") or HUB
    is_off = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    for name, purpose in NAMES.items():
        shown = urlsplit(hub).netloc or hub if name == "hub" else name
        more = "; HF_HUB_OFFLINE is set, so it is not asked" if name == "hub" and is_off else ""
        yield Check("network", shown, "ok", f"{purpose}{more}")
    if is_online:
        yield _tried(hub)


def _tried(address: str) -> Check:
    """Return whether a connection to ``address`` opens within ``SECONDS``. Nothing is sent."""
    parts = urlsplit(address)
    host, port = parts.hostname or address, parts.port or 443
    try:
        with socket.create_connection((host, port), timeout=SECONDS):
            return Check("network", f"{host}:{port}", "ok", "can be reached")
    except OSError as error:
        fix = "check the network and HTTPS_PROXY; models that are here work without: --backbone tiny, lit, lm:minilm"
        return Check("network", f"{host}:{port}", "FAIL", f"cannot be reached ({error})", fix)


def environment_checks() -> Iterator[Check]:
    """Yield the variables that are set; of secrets only that they are."""
    for name in VARIABLES:
        if value := os.environ.get(name):
            yield Check("environment", name, "ok", value)
    for name in SECRETS:
        if os.environ.get(name):
            yield Check("environment", name, "ok", "is set")
