"""Suites: those that are brought along are sound, and a wrong one is refused in one line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from promptfed.bench.execute import run_suite
from promptfed.bench.suite import Suite, load_suite, suite_names
from promptfed.errors import ConfigError, DataError
from promptfed.progress import ComparisonProgress

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
        ({"colour": "red"}, "unknown option 'colour': known are description"),
        (
            {"entries": {"one": {"title": "t", "methodz": ["promptfl"]}}},
            "'entries.one.methods' is missing; .*unknown option 'entries.one.methodz': did you mean 'methods'",
        ),
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


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"methods": ["promptfll"]}, "unknown method 'promptfll'"),
        ({"options": {"roundz": 3}}, "unknown option 'roundz'"),
        ({"options": {"task": "clip-fewshots"}}, "unknown task 'clip-fewshots'"),
    ],
)
def test_a_misspelt_entry_is_refused_before_the_first_one_runs(tmp_path: Path, entry: dict, said: str) -> None:
    sound = SOUND["entries"]["one"]
    suite = Suite.model_validate({**SOUND, "entries": {"one": sound, "two": {**sound, **entry}}})
    with pytest.raises(ConfigError, match=f"entry 'two' of the suite: {said}"):
        run_suite("own", suite, tmp_path, ComparisonProgress())
    assert not list(tmp_path.iterdir())
    suite.check("one", 1, None, None)


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


def test_a_package_that_is_missing_is_no_fault_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    entry = {"title": "on Ray", "methods": ["promptfl"], "options": {"engine": "ray"}}
    suite = Suite.model_validate({"description": "own", "time": "none", "entries": {"a": entry}})
    suite.check(None, 1, None, None)
    with pytest.raises(ConfigError, match="not installed"):
        suite.entries["a"].plan(1, None, None)
