"""Messages name options as a user types them, ``--set method.lr=0.1``; a caller in Python reads ``method_options``.

An error or note is written once, in the words of the command line. ``promptfed.api`` and ``promptfed.run`` show it
through ``in_python``, which puts an argument in the place of each flag and changes no other word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from promptfed.config import SECTIONS, RunConfig
from promptfed.errors import DiskError, PromptFedError
from promptfed.oracle_options import OracleOptions
from promptfed.progress import ComparisonProgress, Progress
from promptfed.shorthands import Shorthands
from promptfed.types import Incident

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=Progress)
Words = Callable[[str], str]
"""Puts a message into the words of whoever reads it."""
ARGUMENTS = frozenset(
    (
        *RunConfig.model_fields, *Shorthands.model_fields, *OracleOptions.model_fields,
        "alphas", "classes", "client", "config", "epochs", "folder", "format", "init", "keep_features",
        "l2_to_global", "lr", "merged", "seeds", "shared", "overwrite", "space", "threshold", "top", "trust_address",
        "val_shots",
    )
) - set(SECTIONS)  # fmt: skip
"""What functions of promptfed take."""
RENAMED = {"backbone": "model", "run": "folder", "out": "folder", "interpolate": "alphas"}
"""Flag -> the argument, where they are called differently."""
SWITCHES = frozenset({"strict", "shared", "merged", "overwrite", "trust_address", "keep_features"})
WORDS = frozenset(
    (
        "tiny", "lit", "cpu", "cuda", "local", "ray", "iid", "domain", "classes", "dirichlet", "auto", "none",
        "median", "mean", "finetune", "features", "prompt", "cot", "peft",
    )
)  # fmt: skip
"""Values of options that look like words of a sentence."""
QUOTED, TOKEN = r"'[^']*'|\"[^\"]*\"", r"[^\s,;)'\"]+"
FLAG = re.compile(rf"--(?P<name>[a-z][a-z0-9-]*)(?:[ =](?P<value>{QUOTED}|(?!--){TOKEN}))?")
ASSIGNED = rf"{QUOTED}|{{[^}}]*}}|{TOKEN}?(?=[:.]?(?:[\s,;)']|$))"
SETTING = re.compile(rf"--set (?P<quote>['\"]?)(?P<key>[a-z_]\w*(?:\.\w+)*)(?:=(?P<value>{ASSIGNED}))?(?P=quote)")
PLUGIN = re.compile(r"--plugin(?: (?P<value>[^\s,;]+))?(?![\w-])")
RESUME = re.compile(rf"(?:promptfed train )?--resume(?: (?P<value>{QUOTED}|(?!writes\b){TOKEN}))?")
TRAIN = re.compile(rf"promptfed train(?P<flags>(?: --[a-z]{TOKEN}(?: (?!--)(?:{QUOTED}|{TOKEN}))?)+)")


def in_python(text: str) -> str:
    """Return the message ``text`` with arguments of promptfed's functions in the place of flags.

    >>> in_python("raise --shots, or use --clients 3 or fewer (--set task.val_shots=1 lowers that)")
    'raise shots, or use clients=3 or fewer (task_options={"val_shots": 1} lowers that)'
    """
    if "--" not in text:
        return text
    text = RESUME.sub(lambda m: f"promptfed.load_run({_literal(m['value'] or '...')}).resume()", text)
    text = TRAIN.sub(lambda m: f"promptfed.train({_arguments(m['flags'])})", text)
    text = PLUGIN.sub(lambda m: "promptfed.load_plugin" + (f"({_literal(m['value'])})" if m["value"] else ""), text)
    return FLAG.sub(_flag, SETTING.sub(_setting, text))


def _arguments(flags: str) -> str:
    """Return the flags of a whole command as the arguments of a call, with an ellipsis for any value."""
    parts = re.split(r" (?=--)", flags.strip())
    names = [FLAG.sub(_flag, SETTING.sub(_setting, part)) for part in parts]
    return ", ".join(name if "=" in name else f"{name}=..." for name in names)


def _setting(match: re.Match[str]) -> str:
    """``--set`` as the argument that has the option."""
    section, *names = match["key"].split(".")
    value = None if match["value"] is None else _literal(match["value"])
    if not names:
        return section if value is None else f"{section}={value}"
    if value is None:
        return f"{section}_options" + "".join(f'["{name}"]' for name in names)
    for name in reversed(names):
        value = f'{{"{name}": {value}}}'
    return f"{section}_options={value}"


def _flag(match: re.Match[str]) -> str:
    """Return a flag as an argument, with the text behind it: a value, or the next word of the sentence."""
    name = match["name"].replace("-", "_")
    if name != "model" and RENAMED.get(name, name) not in ARGUMENTS:
        return match[0]
    token = match["value"] or ""
    word = token if token[:1] in "'\"" else token.rstrip(".:")
    end, is_value = token[len(word) :], _is_value(word)
    suffix = end if is_value else f" {token}" if token else ""
    value = _literal(word) if is_value and not _is_placeholder(word) else ""
    if name == "model":  # on the command line the name that a server knows, in Python the frozen model
        return (f'oracle_options={{"model": {value}}}' if value else 'oracle_options["model"]') + suffix
    name = RENAMED.get(name, name)
    if name in SWITCHES:
        return f"{name}=True{suffix}"
    return (f"{name}={value}" if value else name) + suffix


def _is_value(word: str) -> bool:
    """Whether ``word`` is what a flag is given, and no word of the sentence around it."""
    return word in WORDS or _is_placeholder(word) or re.search(r"[\d:/@_='\"-]", word) is not None


def _is_placeholder(word: str) -> bool:
    """Whether it stands for what the user puts there: DIR, NAME, N."""
    return re.fullmatch(r"[A-Z][A-Z_]*", word) is not None


def _literal(value: str) -> str:
    """``value`` as Python has it."""
    if re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?|\.\.\.|\{.*\}", value) or _is_placeholder(value):
        return value
    if value in ("true", "false"):
        return value.title()
    return value if value[:1] in "'\"" else f'"{value}"'


@contextmanager
def said_in(words: Words) -> Iterator[None]:
    """Put the message of a PromptFedError that leaves the block into ``words``."""
    try:
        yield
    except DiskError:  # names no options
        raise
    except PromptFedError as error:
        error.args = (words(str(error)),)
        raise


def said_in_python(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function for callers in Python: its errors are in their words."""

    @wraps(function)
    def called(*args: P.args, **options: P.kwargs) -> R:
        with said_in(in_python):
            return function(*args, **options)

    return called


def told_in(words: Words, progress: T) -> T:
    """Return what tells ``progress`` everything, its notes in ``words``."""
    if type(progress) in (Progress, ComparisonProgress):  # nobody watches
        return progress
    return cast(T, _Told(progress, words))


class _Told:
    """Tells another one everything, notes and incidents in ``words``."""

    def __init__(self, progress: Progress, words: Words) -> None:
        self._progress, self._words = progress, words

    def __getattr__(self, name: str) -> Any:
        return getattr(self._progress, name)

    def note(self, text: str) -> None:
        self._progress.note(self._words(text))

    def incident(self, name: str, incident: Incident) -> None:
        self._progress.incident(name, replace(incident, why=self._words(incident.why)))
