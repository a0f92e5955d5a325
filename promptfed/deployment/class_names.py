"""Class names of many sites: join them under one spelling, or ask the people at the sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from promptfed.errors import DeploymentError
from promptfed.printable import printable
from promptfed.tasks.sources.class_names import folded


def split_names(text: str) -> tuple[str, ...]:
    """Split a list with commas into names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def joined_classes(held: Mapping[str, Sequence[str]], *, merge: bool) -> tuple[str, ...]:
    """Join the classes of all sites, in alphabetical order.

    Args:
        held: Site -> its class names.
        merge: Whether names that differ only in case, blanks or underscores are one class. It gets the name that most
            sites use.

    Raises:
        DeploymentError: Without ``merge``, two names differ only in case, blanks or underscores.
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
    """Return a line for each class that only one of several sites has: its name may be misspelt."""
    owners: dict[str, list[str]] = {}
    for site, names in held.items():
        for name in names:
            owners.setdefault(folded(name), []).append(f"{site} has class '{name}'")
    lonely = [lines for lines in owners.values() if len(lines) == 1 < len(held)]
    return [printable(f"only {line} (is it spelt as elsewhere?)") for [line] in lonely]


def agreed_names(names: Sequence[str], agreed: Sequence[str], *, merged: bool) -> dict[str, str | None]:
    """Map the class names of a site to the agreed ones.

    Args:
        names: The class names of the site.
        agreed: The class names of the run.
        merged: Whether a name that differs only in case, blanks or underscores counts as the agreed one.

    Returns:
        Name at the site -> agreed name; None if there is none.
    """
    exact, alike = set(agreed), {folded(name): name for name in agreed} if merged else {}
    return {name: name if name in exact else alike.get(folded(name)) for name in names}


def _question(held: Mapping[str, Sequence[str]], alike: Sequence[str]) -> str:
    places = []
    for name in alike:
        sites = [site for site, names in held.items() if name in names]
        site_list = ", ".join(sites[:3]) + (f" and {len(sites) - 3} more" if len(sites) > 3 else "")
        places.append(f"'{name}' at {site_list}")
    return printable(
        f"are {' and '.join(places)} one class? Rename the folder at one of the sites, or map it there by classes.csv; "
        "or say that such names are one class: merge-classes=true in the run config"
    )
