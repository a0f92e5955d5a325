"""`promptfed site check`: whether this machine could take part, found out before anyone waits for it."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptfed.cache_dir import cache_folder
from promptfed.config import RunConfig
from promptfed.deployment.site import SiteOptions
from promptfed.deployment.site_examples import examples_of
from promptfed.deployment.site_identities import pinned_identities
from promptfed.deployment.site_model import model_sentence, site_model
from promptfed.deployment.site_task import check_classes, read_site
from promptfed.errors import ConfigError, DataError, DeploymentError, PromptFedError
from promptfed.named_model import usual_model
from promptfed.printable import printable
from promptfed.resolve import resolve

FREE_BYTES = 1_000_000_000
"""Room for features and prompts; much less is needed, and a full disk ends a run in the middle."""
SECONDS = 10.0


@dataclass(frozen=True)
class CheckResult:
    """The result of one check: what was checked, whether it passed, and one line about it."""

    what: str
    fine: bool
    said: str


def parse_node_config(words: str) -> dict[str, Any]:
    """Parse ``site="north" data="folder:/d"`` as Flower does. Raise ConfigError for what Flower cannot read."""
    node_config: dict[str, Any] = {}
    for line in _pairs(words):
        try:
            node_config.update(tomllib.loads(line))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"--node-config: '{line}' is not name=value with text in quotes ({error})") from error
    return node_config


def checks(
    node_config: Mapping[str, Any],
    config: RunConfig,
    *,
    superlink: str | None = None,
    root_certificates: Path | None = None,
    insecure: bool = False,
    classes: Sequence[str] = (),
    fingerprint: str = "",
) -> Iterator[CheckResult]:
    """Check what a node needs, and yield each result as it comes. Only the state directory is created."""
    try:
        options = SiteOptions.of(node_config)
        options.load_plugins()
    except PromptFedError as error:
        yield CheckResult("node-config", False, str(error))
        return
    overrides = {"backbone": options.backbone, "device": options.device}
    config = config.model_copy(update={name: value for name, value in overrides.items() if value})
    if options.data:
        yield _checked("data", lambda: _data(options, config, classes))
    yield _checked("state-dir", lambda: _state_dir(options.state_dir))
    if (pins := options.identities) is not None:
        yield _checked("identities", lambda: f"{pins} pins {len(pinned_identities(pins))} sites")
    yield _checked("disk", lambda: _disk([options.state_dir, cache_folder()]))
    yield _checked("backbone", lambda: _backbone(config, fingerprint))
    if superlink is not None:
        yield _checked("superlink", lambda: reach(superlink, root_certificates, insecure))


def reach(address: str, root_certificates: Path | None, insecure: bool) -> str:
    """Connect to a SuperLink and check its certificate.

    Args:
        address: HOST:PORT.
        root_certificates: The certificate of the authority that must have signed the server's.
        insecure: Whether to connect without TLS.

    Returns:
        A line that says what answers there.

    Raises:
        ConfigError: ``address`` is not HOST:PORT, or there is no certificate and ``insecure`` is off.
        DeploymentError: No server answers, or its certificate does not fit.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ConfigError(f"--superlink '{address}' must be HOST:PORT, such as server:8000")
    if not insecure and root_certificates is None:
        raise ConfigError("give --root-certificates ca.crt, or --insecure for a server without TLS")
    try:
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            if insecure:
                return f"{address} answers, without TLS"
            context = ssl.create_default_context(cafile=str(root_certificates))
            with context.wrap_socket(connection, server_hostname=host) as secure:
                return f"{address} answers with a certificate that {root_certificates} signed ({secure.version()})"
    except ssl.SSLCertVerificationError as error:
        raise DeploymentError(
            f"{address} shows a certificate that does not fit: {error.verify_message}; it must be signed by "
            f"{root_certificates} and name '{host}' (subjectAltName)"
        ) from error
    except ssl.SSLError as error:
        raise DeploymentError(f"{address} does not speak TLS as this machine does ({error.reason})") from error
    except OSError as error:
        raise DeploymentError(f"{address} cannot be reached: {error.strerror or error}") from error


# -------------------------------------------------------------------------------------------------- pieces


def _checked(what: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(what, True, check())
    except PromptFedError as error:
        return CheckResult(what, False, " ".join(str(error).split()))


def _data(options: SiteOptions, config: RunConfig, classes: Sequence[str]) -> str:
    data = read_site(options.site, options.data, resolve(config))
    if classes:
        check_classes(data, classes)
    counts = {use: len(part) for use, part in asdict(data.pools).items()}
    if not counts["train"]:
        raise DataError(f"{options.data} has no training {data.examples.noun}")
    numbers = ", ".join(f"{n} {use}" for use, n in counts.items() if n)
    skipped, noun = len(data.source.skipped), data.examples.noun
    left_out = f"; {skipped} unreadable {noun}s are left out" if skipped else ""
    return f"{len(data.source.classes)} classes ({', '.join(data.source.classes)}), {noun}s: {numbers}{left_out}"


def _state_dir(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".check-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise DeploymentError(f"cannot write to {folder}: {error.strerror or error}") from error
    if not folder.is_absolute():
        raise ConfigError(f"state-dir '{folder}' must be an absolute path: nodes do not start where you stand")
    return f"{folder} can be written"


def _disk(folders: Sequence[Path]) -> str:
    for folder in folders:
        there = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
        free = shutil.disk_usage(there).free
        if free < FREE_BYTES:
            raise DeploymentError(f"{there} has {free / 1e9:.1f} GB free, and a run may want {FREE_BYTES / 1e9:.0f} GB")
    return f"more than {FREE_BYTES / 1e9:.0f} GB free"


def _backbone(config: RunConfig, fingerprint: str) -> str:
    config = usual_model(config).config
    model = site_model(config, examples_of(config).form)
    if fingerprint and not model.fingerprint.startswith(fingerprint.lower()):
        raise DeploymentError(
            f"{model_sentence(model)}, and the server's is {printable(fingerprint, 64)}: bring the same weights and "
            "precision"
        )
    return f"{model_sentence(model)} ({'as at the server' if fingerprint else 'the server says the same if it fits'})"


def _pairs(words: str) -> list[str]:
    """Split at spaces outside of quotes, without taking the quotes away."""
    pairs, quoted = [""], False
    for letter in words:
        quoted ^= letter == '"'
        if letter.isspace() and not quoted:
            pairs.append("")
        else:
            pairs[-1] += letter
    return [pair for pair in pairs if pair]
