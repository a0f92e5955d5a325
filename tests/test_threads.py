"""Threads wait passively, and are no more than the process may use."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from promptfed import threads
from promptfed.config import RunConfig
from promptfed.engine_choice import engine_of

SHOW = "import os, promptfed; print(os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize(("own", "seen"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE"), ("passive", "passive")])
def test_waiting_is_passive_unless_the_user_says_otherwise(own, seen, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if own is not None:
        environment["OMP_WAIT_POLICY"] = own
    shown = subprocess.run([sys.executable, "-c", SHOW], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert shown.stdout.strip() == seen


def test_once_torch_is_loaded_the_environment_stays_as_it_is(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    threads.wait_passively()
    assert "OMP_WAIT_POLICY" not in os.environ


def _cgroup(tmp_path, files, membership):
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "membership").write_text(membership)
    return threads.cgroup_quota(tmp_path / "groups", tmp_path / "membership")


@pytest.mark.parametrize(
    ("files", "membership", "cpus"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, "0::/a/b\n", 2.0),
        ({"a/cpu.max": "max 100000\n"}, "0::/a\n", math.inf),
        (
            {"cpu/job/cpu.cfs_quota_us": "300000\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            "4:cpu,cpuacct:/job\n",
            3.0,
        ),
        ({"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, "4:cpu:/job\n", math.inf),
        ({"cpu.max": "nonsense"}, "0::/\n", math.inf),
        ({}, "9:memory:/x\n", math.inf),
    ],
)
def test_the_quota_of_control_groups(tmp_path, files, membership, cpus):
    assert _cgroup(tmp_path, files, membership) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [(0.5, 1), (1.9, 1), (2.0, 2), (math.inf, 3)])
def test_cpus_are_those_of_affinity_and_quota(monkeypatch, quota, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 5}, raising=False)
    monkeypatch.setattr(threads, "cgroup_quota", lambda: quota)
    assert threads.available_cpus() == cpus


def test_a_run_has_the_threads_it_names_or_those_it_may_use(monkeypatch):
    before = torch.get_num_threads()
    with engine_of(RunConfig(threads=1)):
        assert torch.get_num_threads() == 1
    monkeypatch.setattr(threads, "available_cpus", lambda: 1)
    with engine_of(RunConfig()):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("load", "cores", "warns"), [(12.0, 2, True), (4.9, 2, False), (5.0, 2, True), (30.0, 16, False)]
)
def test_a_busy_machine_is_said(monkeypatch, load, cores, warns):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert bool(threads.load_warning(2)) == warns
    if warns:
        assert "--threads 1" in threads.load_warning(2)
        assert "--threads 1" in threads.load_warning(None)
        assert "--threads" not in threads.load_warning(1)
