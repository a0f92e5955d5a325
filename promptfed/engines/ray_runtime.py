"""The Ray runtime: start or join it, and share its CPUs and GPUs among actors."""

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

from promptfed.errors import ConfigError, MissingPackageError

OBJECT_STORE_BYTES = 100_000_000
"""Prompts are kilobytes; Ray would set aside a third of the memory."""

CONNECT_SECONDS = 10.0


def require_ray() -> None:
    """Raise MissingPackageError if Ray is not installed. Ray is not imported."""
    if importlib.util.find_spec("ray") is None:
        raise MissingPackageError("--engine ray needs Ray, which is not installed: pip install 'promptfed[ray]'")


def begin(address: str | None) -> bool:
    """Connect this process to Ray, unless it is connected already.

    Args:
        address: The cluster, "auto" or HOST:PORT; None starts Ray on this machine.

    Returns:
        Whether this call connected or started Ray.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at ``address``.
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
                detail = " ".join(str(error).split())[:300]
                raise ConfigError(
                    f"--ray-address '{address}': no Ray cluster can be joined there ({detail}); give auto or HOST:PORT "
                    "of a cluster begun with `ray start --head`, or leave it out. One that asks for a token needs "
                    "RAY_AUTH_MODE=token here, and its ~/.ray/auth_token"
                ) from error
    _silence(ray)
    return True


def _knock(address: str) -> None:
    """Check that somebody listens at HOST:PORT. Ray itself would try for many minutes.

    Raises:
        OSError: Nobody listens there.
        ValueError: The port is no number.
    """
    host, colon, port = address.rpartition(":")
    if colon and "/" not in address:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _silence(ray: Any) -> None:
    """Stop Ray from printing its workers' logs to standard output, which is for results."""
    inside: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(inside, "_worker_logs_enabled"):
        inside._worker_logs_enabled = False


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the handlers of SIGINT and SIGTERM, which Ray would replace: they ask for a clean stop."""
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
    """Have threads wait without spinning: actors may have more threads than there are CPUs."""
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_WAIT_POLICY", None)


@contextmanager
def _neutral_folder() -> Iterator[None]:
    """Leave the current folder while Ray starts.

    Ray puts that folder first on the import path of its workers. In a checkout it would hide the installed package.
    """
    here = os.getcwd()
    os.chdir(sys.prefix)
    try:
        yield
    finally:
        os.chdir(here)


@dataclass(frozen=True)
class Share:
    """What each actor gets of the machines.

    Attributes:
        actors: The number of actors.
        cpus: CPUs of each actor; 0 if the actors compete for them.
        gpus: GPUs of each actor, a whole one or a fraction.
    """

    actors: int
    cpus: int
    gpus: float

    @classmethod
    def of(cls, nodes: list[tuple[int, int]], actors: int | None, threads: int, on_gpu: bool) -> Share:
        """Share the machines among actors.

        Args:
            nodes: (CPUs, GPUs) of each machine.
            actors: The number of actors; None takes one for each GPU, or as many as the CPUs have room for.
            threads: Torch threads of each actor.
            on_gpu: Whether the model runs on a GPU.

        Raises:
            ConfigError: ``on_gpu`` is set and no machine has a GPU.
        """
        cpus, gpus = (sum(node[i] for node in nodes) for i in (0, 1))
        if on_gpu and not gpus:
            raise ConfigError("device 'cuda' with --engine ray, but Ray knows of no GPU: use --device cpu")
        count = actors or max(1, gpus if on_gpu else sum(node[0] // threads for node in nodes))
        each = min(threads, cpus // count)
        while each > 1 and sum(node[0] // each for node in nodes) < count:
            each -= 1  # or some actor would wait for a place for ever
        part = 0.0
        if on_gpu:
            part = (
                int(10_000 / -(-count // gpus)) / 10_000
            )  # an actor's part is of one card: 2 have no room for 3 x 2/3
        return cls(count, each, part)


def nodes() -> list[tuple[int, int]]:
    """Return (CPUs, GPUs) of each machine of the cluster."""
    import ray

    list_nodes: Any = ray.nodes  # has no types
    alive = [node["Resources"] for node in list_nodes() if node["Alive"]]
    return [(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in alive]


def free_cpus() -> float:
    """Return the number of free CPUs of the cluster."""
    import ray

    available: Any = ray.available_resources  # has no types
    return float(available().get("CPU", 0.0))
