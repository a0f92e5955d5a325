"""Flower's waits that no option of Flower sets, made shorter. With another version of Flower nothing changes here.

A message is handed out before all of its parts are there; who asks for a part too early waits a second, in server, node
and ClientApp alike. A node looks for messages every three seconds, and for its ClientApp's answer every half a second.
"""

from __future__ import annotations

import time
from typing import Any

PART_SECONDS = 0.1
"""The first wait for a part of a message; it doubles each time."""
OWN_SECONDS = 0.1
"""Between two looks of a node for the answer of its own ClientApp."""


def shorten_waits_for_parts() -> None:
    """Have this process ask again for the parts of a message after a tenth of a second."""
    from flwr.supercore.inflatable import inflatable_utils

    for name in ("pull_objects", "pull_and_inflate_object_from_tree"):
        defaults = getattr(getattr(inflatable_utils, name, None), "__kwdefaults__", None) or {}
        if "initial_backoff" in defaults:
            defaults["initial_backoff"] = PART_SECONDS


def look_every(seconds: float) -> None:
    """Have the node in this process look for messages every ``seconds``. It waits by ``time.sleep`` of its module."""
    from flwr.supernode import start_client_internal as module

    class Clock:
        """The module ``time`` with shorter sleeps."""

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        def sleep(self, wait: float) -> None:
            time.sleep(min(wait, seconds if wait >= 1 else OWN_SECONDS))

    if hasattr(module, "time"):
        module.time = Clock()
