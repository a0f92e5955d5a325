"""The script that typer writes for zsh, mended: zsh runs its file at the first Tab, and the file completed nothing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

FLAGS = ("--install-completion", "--show-completion")
FIRST_TAB = """
# zsh runs this file at the first Tab of a session
[ "$funcstack[1]" = "_%(prog_name)s" ] && %(complete_func)s
"""


def mend_zsh_script(words: Sequence[str]) -> None:
    """Make typer's script for zsh complete at the first Tab too, if ``words`` ask for a script.

    A typer that keeps its scripts elsewhere is left alone: there the second Tab completes.
    """
    if not any(flag in words for flag in FLAGS):
        return
    scripts = getattr(import_module("typer._completion_shared"), "_completion_scripts", None)
    if isinstance(scripts, dict) and "funcstack" not in scripts.get("zsh", "funcstack"):
        scripts["zsh"] = scripts["zsh"].rstrip() + FIRST_TAB
