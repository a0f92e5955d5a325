"""`promptfed site`: what the operator of a site does on its own machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, with_flags
from promptfed.printable import printable

RootCertificates = Annotated[
    Path | None, typer.Option("--root-certificates", help="The CA's certificate.", metavar="FILE")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="The server speaks without TLS.")]
NodeKey = Annotated[
    Path | None,
    typer.Option("--auth-supernode-private-key", help="The private key of this site's node.", metavar="FILE"),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(
        name="site",
        help="On the machine of a site: check it, start it, name its key, see what it spent, export its prompt.",
        rich_markup_mode=None,
    )
    group.command("check")(check)
    group.command("start")(start)
    group.command("status")(status)
    group.command("export")(export)
    group.command("identity")(identity)
    app.add_typer(group)


@with_flags(("task", "backbone", "shots"))
def check(
    flags: Flags,
    node_config: Annotated[
        str, typer.Option("--node-config", help="The same words as of flower-supernode.", metavar="WORDS")
    ],
    superlink: Annotated[
        str | None, typer.Option("--superlink", help="The server, to see if it can be reached.", metavar="HOST:PORT")
    ] = None,
    root_certificates: RootCertificates = None,
    insecure: Insecure = False,
    key: NodeKey = None,
    classes: Annotated[
        str, typer.Option("--classes", help="The agreed class names, with commas or as @FILE, if they are known.")
    ] = "",
    fingerprint: Annotated[
        str,
        typer.Option("--fingerprint", help="The model's fingerprint that the server shows, if known.", metavar="HEX"),
    ] = "",
    set_: options.Set = None,
    quiet: Annotated[bool, options.quiet_option("what fails")] = False,
    json: options.Json = False,
) -> None:
    """Check data, model, disk, key and server before anyone waits for this site. Exit code 2 if anything fails.

    \b
    Examples:
      promptfed site check --node-config 'site="north" data="folder:/site/data" state-dir="/var/lib/promptfed"' \\
          --superlink server:8000 --root-certificates ca.crt --backbone lit
      promptfed site check --node-config 'site="north" data="tsv:/site/notes.tsv" state-dir="/var/lib/promptfed"' \\
          --task text-classification --backbone lm:minilm
    """
    import json as as_json

    from promptfed.config import build_config, parse_settings
    from promptfed.deployment.node_words import parse_node_config
    from promptfed.deployment.preflight import checks
    from promptfed.errors import DeploymentError
    from promptfed.tasks.sources.class_names import parse_class_list

    config = build_config(options.given(flags), parse_settings(set_ or []), {"data": "sites", "clients": 1})
    results = []
    for done in checks(
        parse_node_config(node_config),
        config,
        superlink=superlink,
        root_certificates=root_certificates,
        insecure=insecure,
        classes=tuple(name for name in parse_class_list(classes) if name),
        fingerprint=fingerprint,
        key=key,
    ):
        results.append({"check": done.what, "ok": done.fine, "said": done.said})
        if not json and not (quiet and done.fine):
            typer.echo(printable(f"{'ok  ' if done.fine else 'FAIL'} {done.what}: {done.said}"))
    if json:
        typer.echo(as_json.dumps(results, indent=2))
    if failures := sum(not result["ok"] for result in results):
        raise DeploymentError(f"{failures} of the checks failed: this site would not take part")


def start(
    node_config: Annotated[
        str, typer.Option("--node-config", help="Who and where the site is, as of site check.", metavar="WORDS")
    ],
    superlink: Annotated[str, typer.Option("--superlink", help="The server.", metavar="HOST:PORT")],
    root_certificates: RootCertificates = None,
    insecure: Insecure = False,
    key: NodeKey = None,
    port: Annotated[
        int, typer.Option("--port", help="A free port of this machine, for Flower's own use.", min=1, max=65535)
    ] = 9094,
    look_seconds: Annotated[
        float,
        typer.Option(
            "--look-seconds", help="Between two looks for messages; more for hundreds of sites.", min=0.1, max=60
        ),
    ] = 0.5,
    quiet: Annotated[bool, options.quiet_option("what fails")] = False,
    json: options.Json = False,
) -> None:
    """Start Flower's node of a site with the options that keep a round short. Ctrl-C or SIGTERM ends it.

    It is flower-supernode, without telemetry and search for updates. It looks for messages twice a second, and has
    Flower loaded once rather than for every message.

    \b
    Examples:
      promptfed site start --node-config 'site="north" data="folder:/site/data" state-dir="/var/lib/promptfed"' \\
          --superlink server:8000 --root-certificates ca.crt --auth-supernode-private-key north.key
    """
    import json as as_json
    import os

    from promptfed.deployment.node import Node, shown
    from promptfed.deployment.node import start as start_node
    from promptfed.deployment.node_words import parse_node_config
    from promptfed.deployment.reach import reach
    from promptfed.errors import ConfigError, DeploymentError

    if insecure == (root_certificates is not None):
        raise ConfigError("give --root-certificates ca.crt, or --insecure for a server without TLS")
    words = parse_node_config(node_config)
    if not isinstance(words.get("state-dir"), str):
        raise ConfigError('--node-config needs state-dir="FOLDER", where the site keeps what is its own')
    try:
        reach(superlink, root_certificates, insecure)
    except DeploymentError as error:
        typer.echo(printable(f"note: {error}; this node goes on trying"), err=True)
    node = Node(node_config, superlink, root_certificates, key, port)
    if json:
        typer.echo(as_json.dumps({"command": node.command}))
    elif quiet:
        os.environ.setdefault("FLWR_LOG_LEVEL", "ERROR")
    else:
        typer.echo(printable(f"starting {shown(node.command)}"))
    start_node(node, words, look_seconds)


def status(
    state_dir: Annotated[Path, typer.Option("--state-dir", help="The site's state-dir.", metavar="DIR")],
    delta: Annotated[
        float, typer.Option("--delta", help="Chance with which epsilon of all runs may fail.", min=1e-15, max=0.5)
    ] = 1e-5,
    quiet: Annotated[bool, options.quiet_option("the epsilon of all runs together")] = False,
    json: options.Json = False,
) -> None:
    """Show the runs of a site, and what its examples have spent in each and in all together.

    Works without the server. Its account is releases.json of the state-dir: keep it as long as the examples are used.

    \b
    Examples:
      promptfed site status --state-dir /var/lib/promptfed
    """
    import json as as_json

    from promptfed.deployment.site_status import site_status, status_lines

    found = site_status(state_dir, delta)
    if json:
        typer.echo(as_json.dumps(found, indent=2))
        return
    lines = [_spent(found["epsilon"])] if quiet else status_lines(found)
    for line in lines:
        typer.echo(printable(line))


def _spent(epsilon: float | None) -> str:
    return "no noise" if epsilon is None else f"{epsilon:.3g}"


def export(
    state_dir: Annotated[Path, typer.Option("--state-dir", help="The site's state-dir.", metavar="DIR")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the bundle.", metavar="DIR")],
    run: Annotated[str | None, typer.Option("--run", help="Which run [the last one].", metavar="ID")] = None,
    backbone: Annotated[
        str, typer.Option("--backbone", help="Where this site has the backbone, if its path differs.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in that folder.")] = False,
    quiet: Annotated[bool, options.quiet_option("the bundle's folder")] = False,
    json: options.Json = False,
) -> None:
    """Write the site's own prompt as a bundle: what it keeps itself, with the last shared prompt that it was sent.

    Works without the server, after the run or in the middle of it.

    \b
    Examples:
      promptfed site export --state-dir /var/lib/promptfed --out prompt
      promptfed predict prompt photo.jpg
    """
    import json as as_json

    from promptfed.deployment.site_export import export_site

    folder, round = export_site(state_dir, out, run=run, backbone=backbone, overwrite=overwrite)
    if json:
        typer.echo(as_json.dumps({"bundle": str(folder), "round": round}, indent=2))
        return
    typer.echo(printable(folder if quiet else f"the prompt after round {round} is in {folder}"))


def identity(
    state_dir: Annotated[Path, typer.Option("--state-dir", help="The site's state-dir.", metavar="DIR")],
    site: Annotated[str, typer.Option("--site", help="The name of the site, to print with it.")] = "",
    quiet: Annotated[bool, options.quiet_option("the fingerprint")] = False,
    json: options.Json = False,
) -> None:
    """Print the fingerprint of the key by which other sites know this one in secure sums; the first time, make the key.

    The lines of all sites together are the file of pins that each names in its node-config: identities="FILE".

    \b
    Examples:
      promptfed site identity --state-dir /var/lib/promptfed --site north
    """
    import json as as_json

    from promptfed.deployment.site_identities import own_identity
    from promptfed.privacy.channel_keys import identity_fingerprint

    fingerprint = identity_fingerprint(own_identity(state_dir).public)
    typer.echo(
        as_json.dumps({"identity": fingerprint})
        if json
        else printable(f"{fingerprint} {'' if quiet else site}".strip())
    )
