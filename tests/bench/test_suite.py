"""Suites: those that are brought along are sound, and a wrong one is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from promptfed.bench.suite import load_suite, suite_names
from promptfed.errors import ConfigError, DataError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_bench_partitions.py"
SOUND = {"description": "d", "time": "a minute", "entries": {"one": {"title": "t", "methods": ["promptfl"]}}}


@pytest.mark.parametrize("name", suite_names())
def test_options_and_methods_of_every_suite_are_known(name: str) -> None:
    suite = load_suite(name)
    for entry in suite.entries.values():
        try:
            plan = entry.plan(suite.seeds, None, None)
        except DataError:
            continue  # it names the user's data
        compared = set(plan.methods)
        assert {published.method for published in entry.published} <= compared
        assert "zero_shot" in compared


def test_mini_needs_nothing() -> None:
    assert suite_names()[0] == "mini"
    assert all(not entry.needs for entry in load_suite("mini").entries.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"entries": {}}, "entries"),
        ({"entries": {"a b": SOUND["entries"]["one"]}}, "name entries by letters"),
        ({"entries": {"one": {"title": "t", "methods": ["promptfl"], "figure": "bse"}}}, "unknown figure"),
        ({"seeds": 0}, "seeds"),
        ({"colour": "red"}, "colour"),
        (
            {
                "entries": {
                    "one": {
                        "title": "t",
                        "methods": ["promptfl"],
                        "published": [{"method": "promptfl", "value": 1, "source": "s", "protocol": {"lr": 1}}],
                    }
                }
            },
            "unknown key of a protocol 'lr'",
        ),
    ],
)
def test_a_wrong_suite_is_refused(tmp_path: Path, change: dict, said: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(SOUND))
    assert load_suite(str(path)).seeds == 3
    path.write_text(yaml.safe_dump({**SOUND, **change}))
    with pytest.raises(ConfigError, match=said) as refused:
        load_suite(str(path))
    assert "\n" not in str(refused.value)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown suite 'minni'"):
        load_suite("minni")
    with pytest.raises(ConfigError, match="does not exist"):
        load_suite(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="unknown entry of the suite 'imges'"):
        load_suite("mini").chosen("imges")


@pytest.mark.slow
def test_the_bundled_data_are_those_that_mini_names() -> None:
    """Whoever runs the suite has the examples that its published table had, by content."""
    done = subprocess.run([sys.executable, "-P", str(SCRIPT), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_entry_of_mini_names_its_data() -> None:
    suite = load_suite("mini")
    for name, entry in suite.entries.items():
        assert sorted(entry.partitions) == list(range(suite.seeds)), name
        assert all(len(digest) == 64 for digest in entry.partitions.values()), name
