"""Class names of many sites: one spelling of each, or a question to the people at the sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from promptfed.errors import DeploymentError
from promptfed.printable import printable
from promptfed.tasks.sources.class_names import folded


def split_names(text: str) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def joined_classes(held: Mapping[str, Sequence[str]], *, merge: bool) -> tuple[str, ...]:
    """The classes of all sites, in order. ``held``: site -> its own.

    Names that differ only in case, blanks or underscores are one class if ``merge``, called as most sites call
    it. Raises DeploymentError for such names otherwise: nobody can know whether they are meant to be one.
    """
    spellings: dict[str, Counter[str]] = {}
    for names in held.values():
        for name in names:
            spellings.setdefault(folded(name), Counter())[name] += 1
    for alike in spellings.values():
        if len(alike) > 1 and not merge:
            raise DeploymentError(_question(held, sorted(alike)))
    return tuple(sorted(min(alike, key=lambda name: (-alike[name], name)) for alike in spellings.values()))


def lonely_classes(held: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each class that one site alone of several has: it may be spelt wrong."""
    owners: dict[str, list[str]] = {}
    for site, names in held.items():
        for name in names:
            owners.setdefault(folded(name), []).append(f"{site} has class '{name}'")
    lonely = [said for said in owners.values() if len(said) == 1 < len(held)]
    return [printable(f"only {said} (is it spelt as elsewhere?)") for [said] in lonely]


def agreed_names(names: Sequence[str], agreed: Sequence[str], *, merged: bool) -> dict[str, str | None]:
    """A site's class -> the one of ``agreed`` that it is, None if it is none of them.

    ``merged``: a name that differs only in case, blanks or underscores is the agreed one too.
    """
    exact, alike = set(agreed), {folded(name): name for name in agreed} if merged else {}
    return {name: name if name in exact else alike.get(folded(name)) for name in names}


def _question(held: Mapping[str, Sequence[str]], alike: Sequence[str]) -> str:
    said = []
    for name in alike:
        sites = [site for site, names in held.items() if name in names]
        shown = ", ".join(sites[:3]) + (f" and {len(sites) - 3} more" if len(sites) > 3 else "")
        said.append(f"'{name}' at {shown}")
    return printable(
        f"are {' and '.join(said)} one class? Rename the folder at one of the sites, or map it there by classes.csv; "
        "or say that such names are one class: merge-classes=true in the run config"
    )
