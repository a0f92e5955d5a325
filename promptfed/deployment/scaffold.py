"""`promptfed flower init`: the small Flower app of a run, and a README with the commands for server and sites."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from promptfed.config import RunConfig
from promptfed.deployment import class_names
from promptfed.deployment.fields import LONGEST_NAME
from promptfed.deployment.readme import readme
from promptfed.errors import ConfigError, RunError
from promptfed.files.atomic import write_text
from promptfed.printable import is_printable, printable

PACKAGE = "federation"
FLOWER = "flwr>=1.41,<1.42"
LONGEST_APP_NAME = 32
"""Characters that Flower allows in the name of an app, which is that of its folder."""

PYPROJECT = """\
[project]
name = "{name}"
version = "1.0.0"
description = "A federated run of promptfed"
license = {{ file = "LICENSE" }}
# Installed on every machine beforehand: nothing is installed when a run starts.
dependencies = ["promptfed[flower]=={version}", "{flower}"]

[tool.flwr.app]
publisher = "{publisher}"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "{package}.server:app"
clientapp = "{package}.client:app"

[tool.flwr.app.config]
# Where the server keeps the run: checkpoints, events, report. Start the run again and it goes on from there.
run-dir = "{run_dir}"
# Agreed class names, with commas; empty: all that the sites have.
classes = "{classes}"
# Sites that a round needs, and how long they are waited for.
min-sites = {min_sites}
wait-seconds = 600.0
# How long a site that goes away is waited for before the run goes on without it.
patience-seconds = 300.0
# Longest wait for one answer outside of rounds: getting ready, tests.
site-seconds = 3600.0
# Between looks for answers.
poll-seconds = 1.0
# Class names that differ in case, blanks or underscores only: true makes them one class, false asks.
merge-classes = false
# Names of sites, with commas, that may be given by another node from now on: a site that lost its state-dir.
forget-sites = ""
# Other people's code that the server loads, modules and .py files with commas. Sites name theirs in --node-config.
plugins = "{plugins}"
# Trackers that record the run at the server, with blanks between them: "tensorboard wandb:project=mine".
observers = ""
"""
SERVER = '''\
"""The server: agrees with the sites, then merges what they send."""

from pathlib import Path

from promptfed.deployment.server import server_app

app = server_app(Path(__file__).with_name("config.yaml"))
'''
CLIENT = '''\
"""A site: trains on its own data. What differs between sites is in the node's --node-config."""

from promptfed.deployment.client import client_app

app = client_app()
'''
LICENSE = """\
These few lines call promptfed, which is licensed under the Apache License, Version 2.0.
They are yours to change and to pass on under the same terms: http://www.apache.org/licenses/LICENSE-2.0
"""


def app_name(folder: Path) -> str:
    """Return the name of the app, which is that of its folder. Raise ConfigError if Flower refuses it."""
    name = folder.expanduser().resolve().name
    if not (name[:1].isalpha() and all(c.isalnum() or c == "-" for c in name) and len(name) <= LONGEST_APP_NAME):
        made = "-".join(filter(None, "".join(c if c.isalnum() else "-" for c in name.lower()).split("-")))
        better = (made if made[:1].isalpha() else f"app-{made}")[:LONGEST_APP_NAME].rstrip("-")
        raise ConfigError(
            f"'{printable(name, 80)}' is no name for a Flower app: it must begin with a letter, hold letters, digits "
            f"and hyphens only, and have at most {LONGEST_APP_NAME} characters; '{better}' would do"
        )
    return name


def write_app(folder: Path, config: RunConfig, *, run_dir: Path, classes: str, min_sites: int, publisher: str) -> None:
    """Write the app of ``config`` (resolved) into ``folder``, which must be new or empty.

    Raises RunError if it is not, or cannot be written; ConfigError for an option that would not survive the trip.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"'{folder}' is not an empty folder: choose another one for the app")
    for name in class_names.split_names(classes):
        if len(name) > LONGEST_NAME or not is_printable(name):
            raise ConfigError(
                f"class '{printable(name, 80)}' has {len(name)} characters: at most {LONGEST_NAME} printable ones"
            )
    plugins = ",".join(config.plugins)
    for value in (str(run_dir), classes, publisher, plugins):
        if '"' in value or "\\" in value or "\n" in value:
            raise ConfigError(f"{value!r} must be free of quotes, backslashes and line ends")
    name = app_name(folder)
    files = {
        "pyproject.toml": PYPROJECT.format(
            name=name,
            version=version("promptfed"),
            flower=FLOWER,
            publisher=publisher,
            package=PACKAGE,
            run_dir=run_dir,
            classes=classes,
            min_sites=min_sites,
            plugins=plugins,
        ),
        "LICENSE": LICENSE,
        "README.md": readme(
            config, folder=folder, run_dir=run_dir, sites=config.clients or 8, version=version("promptfed")
        ),
        f"{PACKAGE}/__init__.py": '"""A federated run of promptfed as a Flower app."""\n',
        f"{PACKAGE}/server.py": SERVER,
        f"{PACKAGE}/client.py": CLIENT,
        f"{PACKAGE}/config.yaml": config.to_yaml(),
    }
    try:
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, text)
    except OSError as error:
        raise RunError(f"cannot write the app to '{folder}': {error.strerror or error}") from error
