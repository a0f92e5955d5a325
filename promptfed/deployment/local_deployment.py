"""A whole deployment on 127.0.0.1, each part a process of its own: for tests, comparisons and first steps.

Telemetry, the search for updates and the installation of packages at run time are off.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from promptfed.deployment.process_tree import descendants, kill_all
from promptfed.errors import DeploymentError, MissingPackageError
from promptfed.files.atomic import naming, write_text

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}
CONNECTION = "loop"
STARTING = 60.0
STARTED = re.compile(r"Successfully started run (\d+)")
COMPLETED = "finished:completed"


class Loopback:
    """A SuperLink and nodes with their logs in ``folder``. Use as a context: leaving it ends all that was started.

    ``keys``: the folder that ``make_keys`` filled; without it nothing is encrypted and anybody may connect.
    """

    def __init__(self, folder: Path, keys: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        if shutil.which("flower-superlink", path=_path()) is None:
            raise MissingPackageError("flower-superlink is not installed here: pip install 'promptfed[flower]'")
        self.folder, self.keys, self.port = folder, keys, free_port()
        home = folder / "flwr-home"
        with naming(home):
            home.mkdir(parents=True, exist_ok=True)
        self.environment = {**os.environ, **QUIET, **(environment or {}), "FLWR_HOME": str(home), "PATH": _path()}
        trust = "insecure = true" if keys is None else f'root-certificates = "{keys / "ca.crt"}"'
        text = f'[superlink.{CONNECTION}]\naddress = "{self.address}"\n{trust}\n'
        write_text(home / "config.toml", text)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Loopback:
        return self

    def __exit__(self, *_: object) -> None:
        for name in sorted(self._processes, key=lambda name: name == "superlink"):
            self.stop(name)

    # --------------------------------------------------------------------------------------------- processes

    def start_superlink(self) -> None:
        """Begin the SuperLink and wait until it answers."""
        trust = ["--insecure"]
        if self.keys is not None:
            files = {"--ssl-ca-certfile": "ca.crt", "--ssl-certfile": "server.pem", "--ssl-keyfile": "server.key"}
            trust = [word for flag, name in files.items() for word in (flag, str(self.keys / name))]
            trust.append("--enable-supernode-auth")
        self._start(
            "superlink",
            [
                "flower-superlink",
                *trust,
                *f"--host 127.0.0.1 --port {self.port} --disable-runtime-dependency-installation".split(),
                *("--database", str(self.folder / "superlink.db")),
            ],
        )
        self._wait_for("superlink", self.port)

    def start_node(self, name: str, node_config: str, key: Path | None = None, *, plain: bool = False) -> None:
        """Begin a node.

        Args:
            name: Its name here.
            node_config: The words of its operator.
            key: Its private key where nodes prove who they are.
            plain: Start Flower's own program in the place of `promptfed site start`.
        """
        trust = ["--insecure"] if self.keys is None else ["--root-certificates", str(self.keys / "ca.crt")]
        if key is not None:
            trust += ["--auth-supernode-private-key", str(key)]
        words = ["--superlink", self.address, *trust, "--port", str(free_port()), "--node-config", node_config]
        program = [sys.executable, "-P", "-m", "promptfed", "site", "start"]
        self._start(name, [*(["flower-supernode", "--host", "127.0.0.1"] if plain else program), *words])

    def register(self, public_key: Path) -> None:
        """Allow the owner of this key to connect to the SuperLink."""
        result = self._flwr("supernode", "register", str(public_key), CONNECTION)
        if result.returncode:
            raise DeploymentError(f"the key {public_key} was not accepted: {result.stdout.decode()[-500:]}")

    def begin_run(self, app: Path, run_config: str = "") -> subprocess.Popen[bytes]:
        """Start `flwr run`. Its output goes to ``run.log``."""
        words = ["flwr", "run", str(app), CONNECTION, "--stream"]
        return self._start("run", [*words, *(["--run-config", run_config] if run_config else [])])

    def finish_run(self, seconds: float) -> str:
        """Wait for the end of the run and return all that it has printed.

        The stream of `flwr run` is not believed: Flower ends it without the last lines where a run ends while they are
        on their way. The SuperLink is asked for the state of the run, and for its log.

        Args:
            seconds: The limit.

        Raises:
            DeploymentError: The run does not begin, does not end in time, or fails.
        """
        end = time.monotonic() + seconds
        try:
            self._processes["run"].wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise DeploymentError(f"the run did not end within {seconds:.0f} s: {self.log('run')[-2000:]}") from error
        if not (started := STARTED.findall(self.log("run"))):
            raise DeploymentError(f"the run did not begin: {self.log('run')[-2000:]}")
        while not (state := self._state_of(started[-1])).startswith("finished"):
            if time.monotonic() > end:
                raise DeploymentError(f"the run is {state} after {seconds:.0f} s: {self.log('run')[-2000:]}")
            time.sleep(0.5)
        printed = self._flwr("log", started[-1], CONNECTION, "--show").stdout.decode(errors="replace")
        if state != COMPLETED:
            raise DeploymentError(f"the run is {state}: {printed[-2000:]}")
        return printed

    def kill(self, name: str) -> None:
        """Kill the process ``name`` and all that it has started, also what has a session of its own, by SIGKILL."""
        started = descendants(self._processes[name].pid)
        self._signal(name, signal.SIGKILL)
        kill_all(started)
        self._processes.pop(name).wait()

    def stop(self, name: str) -> None:
        """Ask the process ``name`` to end. Kill it, and all that it has started, after ten seconds."""
        started = descendants(self._processes[name].pid)
        self._signal(name, signal.SIGTERM)
        process = self._processes.pop(name)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        kill_all(started)
        process.wait()

    def log(self, name: str) -> str:
        """Return the output of the process ``name``."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_for_line(self, name: str, text: str, seconds: float) -> None:
        """Wait until ``text`` is in the log of ``name``. Raise DeploymentError if it is not within ``seconds``."""
        end = time.monotonic() + seconds
        while text not in self.log(name):
            if time.monotonic() > end:
                raise DeploymentError(f"'{text}' did not come within {seconds:.0f} s: {self.log(name)[-2000:]}")
            time.sleep(0.1)

    def _start(self, name: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            # A session of its own: so that it can be ended with all that it starts, and nothing else.
            process = subprocess.Popen(
                words,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        self._processes[name] = process
        return process

    def _flwr(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["flwr", *words], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )

    def _state_of(self, run: str) -> str:
        """Return the state of a run as the SuperLink names it; what was printed in its place if it does not answer."""
        said = self._flwr("list", "--run-id", run, "--format", "json", CONNECTION).stdout.decode(errors="replace")
        try:
            return str(json.loads(said[said.index("{") :])["runs"][0]["status"])
        except (ValueError, LookupError):
            return said[-500:]

    def _signal(self, name: str, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._processes[name].pid, number)

    def _wait_for(self, name: str, port: int) -> None:
        end = time.monotonic() + STARTING
        while time.monotonic() < end and self._processes[name].poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.1)
        raise DeploymentError(f"{name} did not start: {self.log(name)[-2000:]}")


def make_keys(folder: Path, nodes: Sequence[str]) -> None:
    """Make a certificate authority, a server certificate for this machine and a key pair for each node.

    Args:
        folder: Where the files go.
        nodes: The names of the nodes.

    Raises:
        DeploymentError: openssl or ssh-keygen fails.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "san.txt", "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    request = "openssl req -newkey rsa:2048 -nodes -days 2 -subj"
    sign = "openssl x509 -req -days 2 -extfile san.txt -CA ca.crt -CAkey ca.key -CAcreateserial"
    lines = [
        f"{request} /CN=our-CA -x509 -keyout ca.key -out ca.crt -addext basicConstraints=critical,CA:TRUE",
        f"{request} /CN=localhost -keyout server.key -out server.csr",
        f"{sign} -in server.csr -out server.pem",
    ]
    commands = [line.split() for line in lines]
    commands += [["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "", "-f", name] for name in nodes]
    for words in commands:
        result = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if result.returncode:
            raise DeploymentError(f"{' '.join(words[:3])} failed: {result.stdout.decode()[-300:]}")


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _path() -> str:
    """Return PATH with the programs of this environment first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


@contextmanager
def loopback(folder: Path, keys: Path | None = None) -> Iterator[Loopback]:
    """Start a SuperLink with no node, and stop it at the end of the block."""
    with Loopback(folder, keys) as deployment:
        deployment.start_superlink()
        yield deployment
