"""`promptfed site status`: what a site keeps of its runs, and what its examples have spent. Needs no server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptfed.counts import number_of
from promptfed.deployment.site_account import FILE, RunTerms, SiteAccount, spent
from promptfed.deployment.site_store import kept_runs
from promptfed.errors import DeploymentError


def site_status(state_dir: Path, delta: float = 1e-5) -> dict[str, Any]:
    """Return what is in the state directory of a site.

    Args:
        state_dir: The state directory of the site's node.
        delta: Where the epsilon of all runs together is computed.

    Returns:
        ``epsilon`` of all runs at ``delta`` (None without noise), and ``runs``, each a mapping.

    Raises:
        DeploymentError: It has nothing of any run, or its account cannot be used.
    """
    names = kept_runs(state_dir)
    if not names and not (state_dir / FILE).exists():
        raise DeploymentError(f"'{state_dir}' keeps nothing of any run: is it the state-dir of this site's node?")
    account = SiteAccount.load(state_dir)
    runs = [*names, *(run for run in account.runs if run not in names)]
    return {
        "epsilon": _finite(spent(account.releases, delta)),
        "delta": delta,
        "runs": [_run(run, account, account.runs.get(run)) for run in runs],
    }


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """Return ``site_status`` in sentences."""
    lines = []
    for run in status["runs"]:
        if not run["releases"]:
            lines.append(f"run {run['run']}: no release with noise for each example")
            continue
        limit = "" if run["epsilon_limit"] is None else f" of {run['epsilon_limit']:g}"
        cost = (
            "no noise" if run["epsilon"] is None else f"epsilon {run['epsilon']:.3g}{limit} at delta {run['delta']:g}"
        )
        lines.append(
            f"run {run['run']}: {run['method']}, {run['rounds']} of {run['planned']} rounds in {run['releases']} "
            f"releases, {cost}"
        )
    if any(run["releases"] for run in status["runs"]):
        cost = "without noise" if status["epsilon"] is None else f"epsilon {status['epsilon']:.3g}"
        lines.append(f"all runs together: {cost} at delta {status['delta']:g}, for one example of this site")
    return lines


def spent_words(state_dir: Path, run: str) -> tuple[str, ...]:
    """Return what the README of the site's bundle says of the noise for its examples in ``run``; nothing without."""
    try:
        account = SiteAccount.load(state_dir)
    except DeploymentError:  # a prompt is taken home all the same
        return ()
    terms, releases = account.runs.get(run), account.of_run(run)
    if terms is None or not releases:
        return ()
    epsilon = spent(releases, terms.delta)
    if not math.isfinite(epsilon):
        return ("Privacy: none, because no noise was added",)
    return (
        f"Privacy: epsilon {epsilon:.2f} at delta {terms.delta:g} for one example of this site, added or removed "
        f"({number_of('release', len(releases))}; trusts nobody outside the site)",
    )


def _run(run: str, account: SiteAccount, terms: RunTerms | None) -> dict[str, Any]:
    releases = account.of_run(run)
    record: dict[str, Any] = {"run": run, "releases": len(releases)}
    if terms is not None:
        record |= {
            "method": terms.method,
            "rounds": len({release.round for release in releases}),
            "planned": terms.rounds,
            "epsilon": _finite(spent(releases, terms.delta)),
            "epsilon_limit": terms.limit,
            "delta": terms.delta,
        }
    return record


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
