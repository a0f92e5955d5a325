"""Real processes on 127.0.0.1: a SuperLink and three SuperNodes, killed and started again. Run with ``-m deploy``."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

pytest.importorskip("flwr")

from promptfed.cli import main
from promptfed.deployment.local_deployment import Loopback, make_keys
from promptfed.deployment.process_tree import started
from promptfed.deployment.site_account import SiteAccount
from promptfed.errors import DeploymentError
from promptfed.export.bundle import read_bundle
from promptfed.runs.events import EventLog

pytestmark = pytest.mark.deploy
METHOD = ["--method", "fedper", "--set", "method.n_ctx=6", "--set", "method.local_epochs=1"]
LIMIT = 480


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code in (0, None)


@pytest.fixture(scope="module")
def options(pictures):
    data = ["--data", f"folder:{pictures}", "--set", "task.val_shots=1", "--set", "task.base_fraction=0.5"]
    data += ["--partition", "classes", "--set", "backbone=tiny"]
    return [*data, "--clients", 3, "--shots", 1, "--rounds", 3, "--baselines", "none", *METHOD]


@pytest.fixture(scope="module")
def reference(options, tmp_path_factory):
    """The same run in one process: (metrics, run folder)."""
    run = tmp_path_factory.mktemp("reference") / "run"
    threads = os.environ.get("OMP_NUM_THREADS")
    command("train", *options, "--run", run, "--set", "validate_every=5", "--quiet")
    assert threads == os.environ.get("OMP_NUM_THREADS")
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture
def app(options, tmp_path):
    command("flower", "init", tmp_path / "app", *options, "--run", tmp_path / "run", "--min-sites", 3)
    return tmp_path / "app"


def start_site(deployment, k, folder, words="", **named):
    deployment.start_node(f"node{k}", f'partition-id={k} state-dir="{folder / f"site{k}"}"{words}', **named)


def kept(folder, k):
    """The kept process of a site: (its number, the time of its start)."""
    about = json.loads((folder / f"site{k}" / "process" / "lock").read_text())
    return about["process"], about["started"]


def check(folder, reference):
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["prompt_sha256"] == reference["prompt_sha256"]
    assert metrics["method"] == reference["method"]
    bundles = [read_bundle(next((folder / f"site{k}").glob("*/prompt"))) for k in range(3)]
    assert len({bundle.personal.sha256() for bundle in bundles}) == 3, "each has a personal prompt of its own"
    assert len({bundle.shared.sha256() for bundle in bundles}) == 1


def clients_of(folder):
    return [e for e in EventLog(folder / "run" / "events.jsonl").read() if e["event"] == "client"]


def test_a_site_killed_at_work_and_the_server_killed_cost_time_and_nothing_else(app, tmp_path, reference):
    """After round 1 one site is killed -9 and started again: another node, the same state-dir. Of another site the kept
    process is killed -9. After round 2 the server is killed -9 with all its processes, and the run is started again.
    One site runs Flower's own program for nodes, and one has a new process for each message."""
    with Loopback(tmp_path / "log") as deployment:
        deployment.start_superlink()
        start_site(deployment, 0, tmp_path, plain=True)
        for k in range(1, 3):
            start_site(deployment, k, tmp_path)
        deployment.begin_run(app, "poll-seconds=0.2")
        deployment.wait_for_line("run", "round 1:", LIMIT)
        deployment.kill("node1")
        os.kill(kept(tmp_path, 2)[0], signal.SIGKILL)
        start_site(deployment, 1, tmp_path)
        deployment.wait_for_line("run", "round 2:", LIMIT)
        deployment.kill("superlink")
        deployment.stop("run")
        for k in range(3):
            deployment.stop(f"node{k}")
        deployment.start_superlink()
        for k in range(2):
            start_site(deployment, k, tmp_path)
        start_site(deployment, 2, tmp_path, words=" keep-process-seconds=0")
        time.sleep(0.5)
        deployment.begin_run(app, "poll-seconds=0.2")
        said = deployment.finish_run(LIMIT)
        processes = [kept(tmp_path, k) for k in range(2)]
        assert all(started(pid) == start for pid, start in processes), "they are kept until the node ends"
        assert not (tmp_path / "site2" / "process" / "socket").exists()
    assert "going on with" in said
    check(tmp_path, reference)
    end = time.monotonic() + 30
    while any(started(pid) == start for pid, start in processes):
        assert time.monotonic() < end, "kept processes end with their nodes"
        time.sleep(0.1)
    events = clients_of(tmp_path)
    assert [
        (e["round"], e["client"], e["failure"]) for e in sorted(events, key=lambda e: (e["round"], e["client"]))
    ] == [(round, client, "") for round in (1, 2, 3) for client in range(3)]
    assert all(e["start_seconds"] > 0.1 for e in events)
    assert all(e["bytes_up"] > 2 * 128 * 4 for e in events)


def test_a_run_that_cannot_begin_says_so_at_once(app, tmp_path):
    """Flower has the line and the end of the run before the server's process is gone."""
    with Loopback(tmp_path / "log") as deployment:
        deployment.start_superlink()
        deployment.begin_run(app, 'run-dir="here"')
        with pytest.raises(DeploymentError, match=r"finished:failed.*error: run-dir is 'here': give an absolute path"):
            deployment.finish_run(50)


def test_a_secure_run_with_noise_by_tls_and_node_keys(options, tmp_path):
    """The server learns the sum with the sites' noise, over real messages, and says what it promises."""
    keys = tmp_path / "keys"
    make_keys(keys, ["site0", "site1", "site2", "stranger"])
    terms = ("secure_aggregation=true", "dp=client", "noise=1", "delta=0.001", "clip=0.5", "noise_at=clients")
    private = [word for term in terms for word in ("--set", f"privacy.{term}")]
    once = [*options, "--rounds", 1, *private, "--run", tmp_path / "run", "--min-sites", 3]
    command("flower", "init", tmp_path / "app", *once)
    with Loopback(tmp_path / "log", keys) as deployment:
        deployment.start_superlink()
        for k in range(3):
            deployment.register(keys / f"site{k}.pub")
            start_site(deployment, k, tmp_path, key=keys / f"site{k}")
        deployment.start_node("stranger", f'partition-id=0 state-dir="{tmp_path / "x"}"', key=keys / "stranger")
        deployment.begin_run(tmp_path / "app", "poll-seconds=0.2")
        said = deployment.finish_run(LIMIT)
        kept = [path.name for path in (tmp_path / "x").iterdir()]
        assert kept == ["process"], "whose key is not registered is not let in: its node has begun, and no more"
    assert said.count("identity of client") == 3
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert promise["releases"] == 1
    assert promise["trusts"].startswith("3 of the clients in each sum, who tell nobody their noise")
    assert promise["noise_source"].startswith("random bytes of each site")
    assert not any("simulates" in line for line in promise["not_covered"])
    assert [event["failure"] for event in clients_of(tmp_path)] == ["", "", ""]
    assert all(event["loss"] is None for event in clients_of(tmp_path)), "no figure of training leaves a site"


def test_sites_protect_their_examples_by_keys_and_limits_of_their_own(options, tmp_path):
    terms = ("dp=example", "noise=1.5", "delta=0.001", "clip=5", "clip_space=features")
    private = [word for term in terms for word in ("--set", f"privacy.{term}")]
    private += ["--set", "method.batch_size=all", "--method", "promptfl", "--rounds", 1]
    command("flower", "init", tmp_path / "app", *options, *private, "--run", tmp_path / "run", "--min-sites", 3)
    with Loopback(tmp_path / "log") as deployment:
        deployment.start_superlink()
        for k, limit in enumerate((4, 4, 0.1)):
            words = f'partition-id={k} state-dir="{tmp_path / f"site{k}"}" max-epsilon={limit}'
            deployment.start_node(f"node{k}", words)
        deployment.begin_run(tmp_path / "app", "poll-seconds=0.2")
        said = deployment.finish_run(LIMIT)
    assert "client 2 could not prepare: the round would bring this site to epsilon" in said
    first, second, third = sorted(clients_of(tmp_path), key=lambda event: event["client"])
    assert [first["failure"], second["failure"]] == ["", ""]
    assert "max-epsilon" in third["failure"]
    assert [len(SiteAccount.load(tmp_path / f"site{k}").releases) for k in range(3)] == [1, 1, 0]
    keys = [next((tmp_path / f"site{k}").glob("*/privacy.key")).read_bytes() for k in range(2)]
    assert keys[0] != keys[1]
    promise = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert promise["epsilon_of_client"]["0"] == pytest.approx(first["epsilon"])
