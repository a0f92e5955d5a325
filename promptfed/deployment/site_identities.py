"""The keys by which the sites of secure sums know each other, and what an operator says beforehand about them.

<state-dir>/identity                the site's own long-lived key
<state-dir>/<run>/identities.json   the public identities that a run began with

A file of pins, which operators make from what ``promptfed site identity`` prints at each site, has a line
``FINGERPRINT NAME`` for each. With it, the server need not be trusted to say whose a key is.
"""

from __future__ import annotations

import re
from pathlib import Path

from promptfed.deployment.messages import SiteAgreement
from promptfed.deployment.site_store import SiteStore
from promptfed.errors import DeploymentError
from promptfed.files.sealed_json import sealed_json
from promptfed.printable import printable, printable_lines
from promptfed.privacy.channel_keys import KEY_BYTES, Identity, identity_fingerprint
from promptfed.readers.files import MEGABYTE, read_bytes
from promptfed.readers.json_reader import LIMITS

IDENTITY, IDENTITIES = "identity", "identities.json"
PIN = re.compile(r"((?:[0-9a-f]{4}-){7}[0-9a-f]{4})\s+(\S.*)")


def own_identity(state_dir: Path) -> Identity:
    """Return the site's identity, which all its runs share; it is made on the first call.

    Raises:
        DeploymentError: Its file cannot be read.
    """
    path = state_dir / IDENTITY
    if not path.exists():
        SiteStore(state_dir, "").write(path, Identity.new().private.hex().encode())
    try:
        private = bytes.fromhex(read_bytes(path, 1_000).decode("ascii"))
    except (OSError, ValueError) as error:
        raise DeploymentError(f"cannot read {printable(path)}: {printable(error, 200)}") from error
    if len(private) != KEY_BYTES:
        raise DeploymentError(f"{printable(path)} holds no identity of {KEY_BYTES} bytes")
    return Identity(private)


def told_identity(state_dir: Path) -> str:
    """Return the public half of the site's identity in hexadecimal, and show its fingerprint."""
    public = own_identity(state_dir).public
    print(f"identity of this site: {identity_fingerprint(public)}", flush=True)
    return public.hex()


def pinned_identities(path: Path) -> dict[str, str]:
    """Return name -> fingerprint of the file of pins at ``path``; blank lines and those with # are left out.

    Raises:
        DeploymentError: It cannot be read, or a line is none.
    """
    try:
        lines = read_bytes(path, MEGABYTE).decode().splitlines()
    except (OSError, ValueError) as error:
        raise DeploymentError(f"cannot read {printable(path)}: {printable(error, 200)}") from error
    pins: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if (found := PIN.fullmatch(line)) is None or found[2] in pins:
            raise DeploymentError(
                f"line {number} of {printable(path)} is not FINGERPRINT NAME of one more site, as promptfed site "
                "identity prints it"
            )
        pins[found[2]] = found[1]
    return pins


def check_identities(state_dir: Path, agreement: SiteAgreement, pins: Path | None = None) -> None:
    """Show the identities of a run's sites at its beginning, and hold the server to them from then on.

    Args:
        state_dir: The site's own.
        agreement: What the server says that all agreed on.
        pins: The operator's file of pins, if there is one.

    Raises:
        DeploymentError: They are others than at the beginning, or than the operator's.
    """
    names = [site.name for site in agreement.sites]
    if len(agreement.identities) != len(names):
        raise DeploymentError(f"the server names {len(agreement.identities)} identities of {len(names)} sites")
    shown = {
        name: identity_fingerprint(bytes.fromhex(key)) for name, key in zip(names, agreement.identities, strict=True)
    }
    if pins is not None:
        _check_pins(shown, identity_fingerprint(own_identity(state_dir).public), pins)
    store = SiteStore(state_dir, agreement.run)
    path = store.folder / IDENTITIES
    content = sealed_json({"sites": names, "identities": list(agreement.identities)})
    if not path.exists():
        for name, fingerprint in shown.items():
            print(printable_lines(f"identity of {name}: {fingerprint}"), flush=True)
        store.write(path, content)
    elif read_bytes(path, LIMITS.size) != content:
        raise DeploymentError(
            f"the server names other identities of the sites than those that the run began with ({printable(path)})"
        )


def _check_pins(shown: dict[str, str], own: str, path: Path) -> None:
    pins = pinned_identities(path)
    for name, fingerprint in shown.items():
        if fingerprint == own:
            continue
        if name not in pins:
            raise DeploymentError(f"{printable(path)} pins no identity of {printable(name)}, with whom the run sums")
        if pins[name] != fingerprint:
            raise DeploymentError(
                f"the server names identity {fingerprint} of {printable(name)}, and {printable(path)} pins "
                f"{pins[name]}: ask its operator, not the server"
            )
