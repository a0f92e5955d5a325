"""Public texts without labels: named in the options, read from a file once, or bundled with the task's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from promptfed.errors import ConfigError
from promptfed.printable import printable
from promptfed.readers.option_file import option_lines
from promptfed.readers.text import filled_lines
from promptfed.tasks.sources.bundled_texts import FOLDER, FORMS

OPTION = "questions"
MOST = 5000
"""Public texts of a run."""
LONGEST = 2000
"""Characters of one."""


def read_questions(options: dict[str, Any]) -> dict[str, Any]:
    """Return method ``options`` in which a file of public texts is replaced by its lines.

    From then on no file is named: runs and bundles carry the texts.

    Raises:
        ConfigError: The file cannot be read, or holds no public texts.
    """
    file = options.get(OPTION)
    if not isinstance(file, str) or not file.startswith("file:"):
        return options
    lines = option_lines(OPTION, file)
    return {**options, OPTION: list(_checked([" ".join(line.split()) for line in lines]))}


def agreed_questions(option: str | Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Return the public texts that ``option`` stands for; 'bundled': those that come with the bundled ``classes``.

    Raises:
        ConfigError: It still names a file, or there are no such texts.
    """
    if not isinstance(option, str):
        return _checked(option)
    if option != "bundled":
        raise ConfigError(
            f"{OPTION} '{printable(option, 60)}' are no texts: write 'bundled', a list, or file:PATH, a text file with "
            "one a line (read when a run is set up, never because a run or a bundle names it)"
        )
    for name, form in FORMS.items():
        if set(classes) <= {*form.words, *form.descriptions}:
            return _checked(filled_lines(FOLDER / f"{name}_unlabelled.txt"))
    listed = ", ".join(f"'{printable(name, 40)}'" for name in list(classes)[:3])
    raise ConfigError(
        f"no public texts come with promptfed for the classes {listed}{', ...' if len(classes) > 3 else ''}: name a "
        f"file with one text a line, which need no labels and nobody must keep secret (--set method.{OPTION}=file:PATH)"
    )


def _checked(texts: Sequence[str]) -> tuple[str, ...]:
    """Return ``texts``, each once. Raises ConfigError if they are too few, too many, too long or no texts."""
    distinct = tuple(dict.fromkeys(texts))
    if not 2 <= len(distinct) <= MOST:
        raise ConfigError(f"{len(distinct)} different {OPTION}: 2 to {MOST:,} are allowed, one a line")
    for text in distinct:
        if len(text) > LONGEST or not text.isprintable() or not text.strip():
            raise ConfigError(
                f"{OPTION} hold '{printable(text, 40)}': one text a line, of {LONGEST:,} printable characters at most"
            )
    return distinct
