"""A server on this machine around a service: it starts, says where it is, and stops when it is told."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from promptfed.errors import ConfigError, DeploymentError, MissingPackageError
from promptfed.printable import LONGEST, printable

if TYPE_CHECKING:
    from promptfed.serving.limits import ServeLimits
    from promptfed.serving.service import Service

HOST, PORT = "127.0.0.1", 8000
START_SECONDS = 60.0
STOP_SECONDS = 10
"""How long requests that are under way may take when the server stops."""
INSTALL = "serving needs fastapi, uvicorn and python-multipart: pip install 'promptfed[serve]'"
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def token_from(variable: str | None) -> str | None:
    """Return the token in an environment variable; None without one. Raises ConfigError if it is not set."""
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise ConfigError(
            f"environment variable {variable} is not set: put the token into it, or leave --token-env out"
        )
    return token


class BundleServer:
    """A running server. Get one by ``start_serving``; it is its own context manager.

    Attributes:
        address: Such as http://127.0.0.1:8000.
    """

    def __init__(self, service: Service, host: str, port: int, token: str | None) -> None:
        try:
            import uvicorn

            from promptfed.serving.app import make_app
        except ImportError as error:
            raise MissingPackageError(INSTALL) from error
        if not 0 <= port <= 65535:
            raise ConfigError(f"port {port} is not a port: give 1 to 65535, or 0 for a free one")
        is_local = _is_local(host)
        if not is_local and token is None:
            raise ConfigError(
                f"other machines can reach --host {printable(host, LONGEST)}: put a token into an environment variable "
                "and name it by --token-env"
            )
        self.service, self._socket = service, _bound(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self._socket.getsockname()[1]}"
        app = make_app(service, token=token, hosts=LOCAL_NAMES | {host} if is_local else frozenset())
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            log_level="critical",
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=STOP_SECONDS,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="promptfed-http")

    def start(self) -> BundleServer:
        """Answer requests from now on. Raises DeploymentError if the server does not start."""
        self.service.warm_up()
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise DeploymentError(f"the server did not start at {self.address}")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Refuse new requests, finish those that are under way, and end."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS + 5)
        self.service.close()
        self._socket.close()

    def __enter__(self) -> BundleServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def serving(service: Service, host: str = HOST, port: int = 0, token: str | None = None) -> Iterator[BundleServer]:
    """Run a server around ``service`` while the block runs; port 0 takes a free one."""
    with BundleServer(service, host, port, token).start() as server:
        yield server


def serve(
    *bundles: str | os.PathLike[str],
    host: str = HOST,
    port: int = 0,
    token: str | None = None,
    limits: ServeLimits | None = None,
    **options: Any,
) -> BundleServer:
    """Serve bundles in threads of this process, and return the server; ``stop()`` ends it, and so does ``with``.

    Args:
        bundles: Folders, all for one model.
        host: The address to listen at.
        port: 0 takes a free one.
        token: What requests must carry; needed where other machines can reach ``host``.
        limits: How much is taken at a time.
        options: As of ``promptfed.load``: device, backbone, model, oracle and so on.

    Raises:
        PromptFedError: A bundle is damaged or for another model, or the address cannot be had.
    """
    from promptfed.serving.service import Service

    return BundleServer(Service.of(bundles, limits, **options), host, port, token).start()


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address. Raises ConfigError if it cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {printable(host, LONGEST)} is no address of this machine: {error}") from error
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen at {printable(host, LONGEST)} port {port} ({error.strerror or error}): --port takes "
            "another one, 0 a free one"
        ) from error
    return sock
