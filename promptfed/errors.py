"""What can go wrong, said so that a user can act on it: every message names the value, the allowed ones and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from promptfed.printable import printable

LONGEST_ERROR = 4_000
"""Characters of an error; of a longer one the middle is left out."""


class PromptFedError(Exception):
    """Base of every error promptfed raises on purpose; the command line prints it as one line and exits with 2.

    Its text is one line of limited length whose control characters are escaped: names in it come from files and
    messages of strangers.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if not text.isprintable():
            text = printable(" ".join(text.splitlines()))
        half = LONGEST_ERROR // 2
        return text if len(text) <= LONGEST_ERROR else f"{text[:half]} [...] {text[-half:]}"


class ConfigError(PromptFedError, ValueError):
    """An option, a name or a combination of options is not allowed."""


class MissingPackageError(ConfigError):
    """An option needs a package that is not installed, or another version of it; the message says how to install it."""


class DataError(PromptFedError, ValueError):
    """The data is missing, unreadable, or does not fit the task."""


class FormatError(PromptFedError, ValueError):
    """A file, a line or a message is not of its format, or more than is read; promptfed/readers/ raises it."""


class BackboneError(PromptFedError, RuntimeError):
    """A backbone is missing, damaged, or cannot do what a method asks of it."""


class RunError(PromptFedError, RuntimeError):
    """A run directory or one of its checkpoints is missing, in the way, or damaged."""


class DiskError(OSError, RunError):
    """Error of a disk that refuses to write: it is full, read-only, broken, or not the user's.

    Its arguments are OSError's: number, reason and file.
    """

    def __str__(self) -> str:
        return printable(f"cannot write {self.filename}: {self.strerror}")


class BundleError(PromptFedError, RuntimeError):
    """An exported prompt bundle is damaged or was made for another backbone."""


class OracleError(PromptFedError, RuntimeError):
    """A black-box model cannot be reached, refuses, or answers something that cannot be used."""


class OracleHalted(OracleError):  # noqa: N818 (a request that was granted)
    """The user asked to stop while a black box let requests wait; the run is saved."""


class BudgetExhausted(PromptFedError, RuntimeError):  # noqa: N818 (a limit that was set, not a fault)
    """The calls, tokens or money that a run may spend on a black box are used up; the run is saved."""


class DeploymentError(PromptFedError, RuntimeError):
    """A message between server and sites cannot be used, or a site cannot take part."""


class ProcessorError(PromptFedError, ValueError):
    """An outgoing processor cannot act on an update, or finds at the server what it did not make."""


class SecureSumError(PromptFedError, RuntimeError):
    """A message of a secure sum is refused, or too few clients answered to finish it."""


class TrainingError(PromptFedError, ArithmeticError):
    """Training produced a loss that is not a finite number."""


LONGEST_REASON = 1_000


def reason(error: BaseException) -> str:
    """Return all that ``error`` says on one line: the line that helps is often not the first."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # somebody else's exception can fail at that too
        message = ""
    message = message or type(error).__name__
    return printable(message, LONGEST_REASON)


def missing_object(role: str, name: str) -> ConfigError | DataError:
    """Return the error for a Python object that no file holds; it names the argument (``role``) to give it by."""
    kind = DataError if role == "data" else ConfigError
    return kind(
        f"{role} '{printable(name, LONGEST_REASON)}' is a Python object, which no file holds: give the same again in "
        f"Python, promptfed.load_run(path, {role}=...) of a run or promptfed.load(path, {role}=...) of a bundle; the "
        "command line cannot"
    )


MOST_NAMES, NEAREST = 20, 8
"""Names that are all listed in an error; those that are named of a longer list."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a name that is not registered.

    It names the nearest known one and lists all; of a long list, where one is near, those that are most like it.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    if near and len(names) > MOST_NAMES:
        alike = difflib.get_close_matches(name, names, n=NEAREST, cutoff=0)
        return ConfigError(
            f"unknown {kind} '{name}'.{hint} Known: {', '.join(alike)} and {len(names) - len(alike)} more."
        )
    return ConfigError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(names)}.")
