"""Whether code that comes with a model may run: only where the user says so, on this command line or in this shell."""

from __future__ import annotations

import os

FLAG = "--trust-remote-code"
VARIABLE = "PROMPTFED_TRUST_REMOTE_CODE"
"""Set to 1 by the flag, for this process and those that it starts."""


def trust_remote_code() -> None:
    """Let models of this process and its children bring code of their own."""
    os.environ[VARIABLE] = "1"


def is_trusted() -> bool:
    """Return whether a model may bring code of its own."""
    return os.environ.get(VARIABLE) == "1"
