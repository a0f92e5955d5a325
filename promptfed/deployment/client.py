"""The ClientApp of a site. Flower starts a process for every message, so this file and what it imports stay light.

The message goes to the kept process of the site (promptfed.deployment.kept_process), which has torch and the model
loaded. Without one, it is answered here.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptfed.deployment.kept_process import DiedError, KeptProcess, NoProcessError, keep_seconds

try:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    from promptfed.deployment.parcels import unwrapped, wrapped
except ImportError as error:
    from promptfed.errors import MissingPackageError

    raise MissingPackageError(
        f"engine 'flower' needs Flower, which is not installed here ({error}): pip install 'promptfed[flower]'"
    ) from error


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
    content = answered(unwrapped(message.content), dict(context.node_config), began())
    return Message(wrapped(content), reply_to=message)


def answered(content: Any, node_config: Mapping[str, Any], start: float) -> Any:
    """Return the answer of the site with these words to a packed question.

    Args:
        content: The question.
        node_config: The words of the node's operator.
        start: When the work on it began, in seconds of ``time.monotonic``.
    """
    if keep_seconds(node_config):
        from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
        from flwr.proto.recorddict_pb2 import RecordDict as Wire

        question = bytes(recorddict_to_proto(content).SerializeToString())
        try:
            return recorddict_from_proto(Wire.FromString(KeptProcess.of(node_config).ask(question, start)))
        except NoProcessError as reason:
            print(f"note: this site keeps no process: {reason}", file=sys.stderr, flush=True)
        except DiedError as error:
            from promptfed.deployment import codec, messages

            print(f"error: {error}", flush=True)
            return codec.pack(messages.problem(str(error)))
    from promptfed.deployment.site_answer import SiteAnswers

    return SiteAnswers(node_config).answer(content, start)


def began() -> float:
    """Return when this process started, in seconds of ``time.monotonic``; now, if the system does not say."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        age = 0.0
    return time.monotonic() - age
