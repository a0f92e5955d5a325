"""How many threads torch gets, and how they wait.

Threads that spin while they wait take the cores from those that work. On a machine that is shared with other jobs a
run then takes several times as long, so promptfed asks for passive waiting before torch is loaded. The environment of
the user wins.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROCESS_GROUPS = Path("/proc/self/cgroup")


def wait_passively() -> None:
    """Have OpenMP's threads sleep while they wait, unless the environment says otherwise.

    OpenMP reads the variable when torch is loaded, so later calls change nothing for this process.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def available_cpus() -> int:
    """Return how many CPUs this process may keep busy: those of its affinity, within its control groups' quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cpus, cgroup_quota())))


def cgroup_quota(root: Path = CGROUPS, membership: Path = PROCESS_GROUPS) -> float:
    """Return the CPUs that this process's control groups allow, infinity where none is limited.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``), in the process's own group and all above it.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for line in lines:
        number, _, fields = line.partition(":")
        controllers, _, group = fields.partition(":")
        if number == "0":
            home = root
        elif "cpu" in controllers.split(","):
            home = root / "cpu"
        else:
            continue
        folder = home / group.strip("/")
        while folder == home or home in folder.parents:
            quotas.append(_quota_of(folder))
            folder = folder.parent
    return min(quotas)


def default_threads() -> int:
    """Return the threads of a run that names no number: torch's own choice, but no more than ``available_cpus``."""
    import torch

    return min(torch.get_num_threads(), available_cpus())


@contextmanager
def torch_threads(threads: int | None) -> Iterator[int]:
    """Give torch ``threads`` threads in this process for a while, None for the default; yields their number."""
    import torch

    previous = torch.get_num_threads()
    count = threads or default_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(previous)


def load_warning(threads: int | None) -> str:
    """Return a sentence if other processes keep the machine far busier than it has cores, else nothing.

    ``threads`` is what the run asks for, None where it has the default.
    """
    if not hasattr(os, "getloadavg"):
        return ""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < 2 * cores + 1:
        return ""
    hint = "; with --threads 1 a run loses least" if threads != 1 else ""
    return f"this machine is busy: its load is {load:.0f} on {cores} cores, so the run takes longer than usual{hint}"


def _quota_of(folder: Path) -> float:
    """Return the limit of one control group in CPUs."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()[:2]
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return math.inf
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return math.inf
    return share if share > 0 else math.inf
