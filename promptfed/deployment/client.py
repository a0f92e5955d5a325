"""The ClientApp of a site: a few lines of Flower around promptfed.deployment.site."""

from __future__ import annotations

import os
import time
from pathlib import Path

from promptfed.deployment import codec, messages  # first: it says how to install what the next two need
from promptfed.errors import PromptFedError

from flwr.app import Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

_SITES: dict[str, object] = {}


def client_app() -> ClientApp:
    """Build the ClientApp that a node runs, in a new process for every message.

    It is the same for all sites: they differ in ``--node-config`` alone.
    """
    app = ClientApp()
    app.query("promptfed")(answer)
    app.train("promptfed")(answer)
    app.evaluate("promptfed")(answer)
    return app


def answer(message: Message, context: Context) -> Message:
    """Answer a message for the site of this node. An error in its options or data becomes an answer of one line."""
    from promptfed.deployment.site import Site, SiteOptions

    try:
        key = repr(sorted(context.node_config.items()))
        if key not in _SITES:
            _SITES.clear()
            _SITES[key] = Site(SiteOptions.of(context.node_config), began())
        site = _SITES[key]
        assert isinstance(site, Site)
        return Message(site.answer(message.content), reply_to=message)
    except PromptFedError as error:
        print(f"error: {error}", flush=True)
        return Message(codec.pack(messages.problem(str(error))), reply_to=message)


def began() -> float:
    """Return when this process started, in seconds of ``time.monotonic``; now, if the system does not say."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        age = 0.0
    return time.monotonic() - age
