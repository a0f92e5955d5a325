"""Installed packages: those that promptfed needs, the extras, and promptfed's own modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from promptfed.health.check import Check

HIDDEN = ("test", "dev", "observers", "all")
"""Extras that are for developers, or are made of others."""


def package_checks() -> Iterator[Check]:
    """Yield a check for each package that promptfed cannot do without; those in order share a line."""
    fine = []
    for requirement in _requirements():
        if requirement.marker is not None and "extra" in str(requirement.marker):
            continue
        problem = _problem(requirement)
        if problem:
            yield Check("packages", requirement.name, "FAIL", problem, f"pip install '{requirement}'")
        else:
            fine.append(f"{requirement.name} {version(requirement.name)}")
    yield Check("packages", "requirements", "ok", ", ".join(fine))


def extra_checks() -> Iterator[Check]:
    """Yield a check for each extra; a missing one is no fault."""
    by_extra: dict[str, list[Requirement]] = {}
    for requirement in _requirements():
        if match := re.search(r"extra == [\"']([^\"']+)[\"']", str(requirement.marker or "")):
            by_extra.setdefault(match[1], []).append(requirement)
    for extra, requirements in by_extra.items():
        if extra in HIDDEN:
            continue
        problems = {each.name: _problem(each) for each in requirements if each.name != "promptfed"}
        absent = [f"{name} is {problem}" for name, problem in problems.items() if problem]
        if absent:
            yield Check("extras", extra, "note", ", ".join(absent), f"pip install 'promptfed[{extra}]'")
        else:
            yield Check("extras", extra, "ok", ", ".join(f"{name} {version(name)}" for name in problems))


def registry_checks() -> Iterator[Check]:
    """Yield a check for each module of promptfed or of a plug-in that cannot be imported, or one that all can."""
    import promptfed.used_packages  # noqa: F401 (has all registries)
    from promptfed.registry import failures

    found = failures()
    for module, why in found.items():
        yield Check("packages", module, "FAIL", f"cannot be imported: {why}", "install it anew, or leave it out")
    if not found:
        yield Check("packages", "methods, tasks, models and plug-ins", "ok", "all can be imported")


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires("promptfed") or ()]
    except PackageNotFoundError:
        return []


def _problem(requirement: Requirement) -> str:
    """Return what is wrong with an installed package: "missing", or its version; empty if it fits."""
    try:
        present = version(requirement.name)
        fits = requirement.specifier.contains(present, prereleases=True)
    except PackageNotFoundError:
        return "missing"
    except InvalidVersion:
        return "of an unreadable version"
    return "" if fits else f"version {present}, and {requirement.specifier} is needed"
