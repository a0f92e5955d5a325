"""Where a run works: versions, kind of machine, command line."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from promptfed.printable import printable
from promptfed.threads import available_cpus

LONGEST_COMMAND = 2000
SECRET_OPTIONS = ("--api-key", "--token")
"""Options whose value is never written down: Flower gives its processes a token; of ours none has one."""


def environment() -> dict[str, Any]:
    """Return versions, system, CPUs that may be used, torch's threads, and the command as it can be typed again."""
    import torch

    return {
        "promptfed": _version("promptfed"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": available_cpus(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        "command": command_line(),
    }


def command_line() -> str:
    """Return the command of this process, quoted for a shell, without the value of anything that looks like a key."""
    words = [os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]]
    parts, hide = [], False
    for word in words:
        parts.append("***" if hide else word)
        hide = word in SECRET_OPTIONS
    return printable(shlex.join(parts), LONGEST_COMMAND)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
