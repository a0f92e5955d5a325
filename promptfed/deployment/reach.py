"""Whether the server of a run can be reached from here, with the certificate that it should have and the same time.

The answer comes within ``SECONDS``, whatever the network does.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

from promptfed.errors import ConfigError, DeploymentError

SECONDS = 5.0
"""The limit for name, connection, certificate and greeting together."""
CLOCK_SECONDS = 240.0
"""What two clocks may differ by: Flower refuses a node's signature that is 300 seconds old."""


def reach(address: str, root_certificates: Path | None, insecure: bool) -> str:
    """Connect to a SuperLink, and check its certificate and its clock.

    Args:
        address: HOST:PORT.
        root_certificates: The certificate of the authority that must have signed the server's.
        insecure: Whether to connect without TLS.

    Returns:
        A line that says what answers there.

    Raises:
        ConfigError: ``address`` is not HOST:PORT, or there is no certificate and ``insecure`` is off.
        DeploymentError: No server answers in time, its certificate does not fit, or its clock is another.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--superlink '{address}' must be HOST:PORT, such as server:8000")
    if not insecure and root_certificates is None:
        raise ConfigError("give --root-certificates ca.crt, or --insecure for a server without TLS")
    if root_certificates is not None and not insecure:
        _check_certificate(root_certificates)
    outcome: list[str | DeploymentError] = []

    def try_it() -> None:
        try:
            outcome.append(_reach(address, host.strip("[]"), int(port), None if insecure else root_certificates))
        except DeploymentError as error:
            outcome.append(error)

    # Looking up a name has no limit of its own, and cannot be interrupted.
    trial = threading.Thread(target=try_it, daemon=True)
    trial.start()
    trial.join(SECONDS)
    result = outcome[0] if outcome else DeploymentError(_unreachable(address, f"no answer within {SECONDS:.0f} s"))
    if isinstance(result, DeploymentError):
        raise result
    return result


def _reach(address: str, host: str, port: int, root_certificates: Path | None) -> str:
    end = time.monotonic() + SECONDS
    try:
        with socket.create_connection((host, port), timeout=SECONDS) as connection:
            connection.settimeout(max(0.1, end - time.monotonic()))
            if root_certificates is None:
                _check_clock(address, _date(connection, host))
                return f"{address} answers, without TLS"
            context = ssl.create_default_context(cafile=str(root_certificates))
            with context.wrap_socket(connection, server_hostname=host) as secure:
                _check_clock(address, _date(secure, host))
                return f"{address} answers with a certificate that {root_certificates} signed ({secure.version()})"
    except ssl.SSLCertVerificationError as error:
        raise DeploymentError(
            f"{address} shows a certificate that does not fit: {error.verify_message}; it must be signed by "
            f"{root_certificates}, name '{host}' (subjectAltName), and be of this time ({time.strftime('%F %R')} here)"
        ) from error
    except ssl.SSLError as error:
        raise DeploymentError(f"{address} does not speak TLS as this machine does ({error.reason})") from error
    except TimeoutError as error:
        raise DeploymentError(_unreachable(address, f"no answer within {SECONDS:.0f} s")) from error
    except OSError as error:
        raise DeploymentError(_unreachable(address, error.strerror or str(error))) from error


def _unreachable(address: str, why: str) -> str:
    return f"{address} cannot be reached: {why} (is the server started, and does a firewall let this machine through?)"


def _check_certificate(path: Path) -> None:
    try:
        ssl.create_default_context(cafile=str(path))
    except ssl.SSLError as error:
        raise DeploymentError(f"--root-certificates {path} is no certificate (PEM)") from error
    except OSError as error:
        raise DeploymentError(f"--root-certificates {path} cannot be read: {error.strerror or error}") from error


def _date(connection: socket.socket, host: str) -> float | None:
    """Return what time the server says it is; None if it does not say."""
    with suppress(OSError, ValueError, TypeError):
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head = connection.recv(4096).decode("latin-1")
        dates = [line.partition(":")[2].strip() for line in head.split("\r\n") if line.lower().startswith("date:")]
        return parsedate_to_datetime(dates[0]).timestamp() if dates else None
    return None


def _check_clock(address: str, there: float | None) -> None:
    if there is not None and abs(difference := time.time() - there) > CLOCK_SECONDS:
        raise DeploymentError(
            f"the clocks differ: here it is {abs(difference):.0f} s {'later' if difference > 0 else 'earlier'} than at "
            f"{address}, and a node's signature holds for 300 s: set the clock (NTP)"
        )
