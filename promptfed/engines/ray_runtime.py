"""Ray itself: found or missed, begun or joined, and how much of a machine each actor gets."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from promptfed.errors import ConfigError

OBJECT_STORE_BYTES = 100_000_000
"""Prompts are kilobytes; Ray would set aside a third of the memory."""

CONNECT_SECONDS = 10.0


def require_ray() -> None:
    """Raises ConfigError if Ray is not installed; does not import it."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--engine ray needs Ray, which is not installed: pip install 'promptfed[ray]'")


def begin(address: str | None) -> bool:
    """Connect this process to the cluster at ``address``, or start Ray on this machine; returns whether it had to.

    A runtime that the process has already is used as it is. Raises ConfigError if there is no cluster at ``address``.
    """
    require_ray()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with _signals_kept(), _neutral_folder(), _patient_threads():
        if address is None:
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        else:
            try:
                _knock(address)
                ray.init(address, **quiet)
            except (OSError, ValueError, RuntimeError) as error:
                said = " ".join(str(error).split())[:300]
                raise ConfigError(
                    f"--ray-address '{address}': no Ray cluster can be joined there ({said}); give auto or HOST:PORT "
                    "of a cluster begun with `ray start --head`, or leave it out. One that asks for a token needs "
                    "RAY_AUTH_MODE=token here, and its ~/.ray/auth_token"
                ) from error
    _silence(ray)
    return True


def _knock(address: str) -> None:
    """Raises OSError if nobody listens at HOST:PORT, and ValueError for a port that is none. Ray itself would go on
    trying for many minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in address:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _silence(ray: Any) -> None:
    """Ray prints what befalls its workers to standard output, whatever it was told, and there our results go."""
    inside: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(inside, "_worker_logs_enabled"):
        inside._worker_logs_enabled = False


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; here it asks for a clean stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _patient_threads() -> Iterator[None]:
    """Actors may have more threads than there are CPUs, and then threads that spin while they wait are in the way."""
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_WAIT_POLICY", None)


@contextmanager
def _neutral_folder() -> Iterator[None]:
    """Ray puts the current folder first on its workers' import path; in a checkout that would hide the installed
    package behind a part of it."""
    here = os.getcwd()
    os.chdir(sys.prefix)
    try:
        yield
    finally:
        os.chdir(here)


@dataclass(frozen=True)
class Share:
    """What each of ``actors`` gets: whole CPUs (0: they compete for them), and a part of the GPUs."""

    actors: int
    cpus: int
    gpus: float

    @classmethod
    def of(cls, nodes: list[tuple[int, int]], actors: int | None, threads: int, on_gpu: bool) -> Share:
        """``nodes``: (CPUs, GPUs) of each machine. By default as many actors of ``threads`` threads as there are CPUs
        for, or one for each GPU if work is done there. Raises ConfigError if that is wanted and there are none."""
        cpus, gpus = (sum(node[i] for node in nodes) for i in (0, 1))
        if on_gpu and not gpus:
            raise ConfigError("device 'cuda' with --engine ray, but Ray knows of no GPU: use --device cpu")
        count = actors or max(1, gpus if on_gpu else sum(node[0] // threads for node in nodes))
        each = min(threads, cpus // count)
        while each > 1 and sum(node[0] // each for node in nodes) < count:
            each -= 1  # or some actor would wait for a place for ever
        part = 0.0
        if on_gpu:
            part = 1.0 if count <= gpus else int(10_000 * gpus / count) / 10_000
        return cls(count, each, part)


def nodes() -> list[tuple[int, int]]:
    """(CPUs, GPUs) of each machine of the cluster."""
    import ray

    known: Any = ray.nodes  # has no types
    alive = [node["Resources"] for node in known() if node["Alive"]]
    return [(int(found.get("CPU", 0)), int(found.get("GPU", 0))) for found in alive]


def free_cpus() -> float:
    """Return how many CPUs of the cluster nobody holds."""
    import ray

    known: Any = ray.available_resources  # has no types
    return float(known().get("CPU", 0.0))
