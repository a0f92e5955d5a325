"""A run of this user's own goes on with its plug-in without ``--plugin``; anybody else's, or changed code, does not."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from promptfed import plugins
from promptfed.config import RunConfig
from promptfed.errors import ConfigError
from promptfed.plugins import check_plugins, load_plugin, loaded_plugins
from promptfed.runs.directory import RunDirectory
from promptfed.runs.passport import write_passport
from promptfed.runs.plugin_tokens import load_remembered_plugins, remember_plugins, token_folder


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTFED_STATE", str(tmp_path / "state"))
    another_process(monkeypatch)


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plug-in is loaded."""
    monkeypatch.setattr(plugins, "_loaded", {})


def run_with(tmp_path: Path, name: str) -> RunDirectory:
    """A run of this user's with the plug-in ``name``, which leaves a line in the file ``ran`` when its code runs."""
    load_plugin(name)
    run = RunDirectory.create(tmp_path / "run", RunConfig(plugins=loaded_plugins()), label="")
    write_passport(run, {}, "0123456789abcdef" * 2)
    remember_plugins(run)
    return run


def code(tmp_path: Path) -> str:
    return f"open({str(tmp_path / 'ran')!r}, 'a').write('x')\n"


def times(tmp_path: Path) -> int:
    return len((tmp_path / "ran").read_text())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(code(tmp_path))
    return path


def test_a_run_of_ones_own_is_not_asked_about(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(tmp_path, str(file))
    [token] = token_folder().iterdir()
    assert token.stat().st_mode & 0o777 == 0o600
    another_process(monkeypatch)
    load_remembered_plugins(run)
    assert times(tmp_path) == 2
    assert check_plugins(run.config.plugins, "run") == []


def test_without_the_token_nothing_runs(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(tmp_path, str(file))
    shutil.copytree(run.path, tmp_path / "copy")
    another_process(monkeypatch)
    monkeypatch.setenv("PROMPTFED_STATE", str(tmp_path / "another machine"))
    load_remembered_plugins(RunDirectory.open(tmp_path / "copy"))
    assert times(tmp_path) == 1
    with pytest.raises(ConfigError, match="runs only if you say so: add --plugin"):
        check_plugins(run.config.plugins, "run")
    load_plugin(file)  # said once ...
    remember_plugins(run)
    another_process(monkeypatch)
    load_remembered_plugins(run)  # ... and then known here
    assert list(loaded_plugins()) == [str(file)]


@pytest.mark.parametrize("change", ["code", "record", "mode", "link"])
def test_what_changed_is_asked_about(change: str, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(tmp_path, str(file))
    [token] = token_folder().iterdir()
    if change == "code":
        file.write_text(file.read_text() + "# more\n")
    elif change == "record":
        run.config = RunConfig(plugins={str(file): "0" * 64})
    elif change == "mode":
        token.chmod(0o644)
    else:
        token.rename(tmp_path / "elsewhere")
        token.symlink_to(tmp_path / "elsewhere")
    another_process(monkeypatch)
    load_remembered_plugins(run)
    assert times(tmp_path) == 1
    assert not loaded_plugins()


def test_a_module_of_another_place_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("own", "strange"):
        (tmp_path / place / "sitestest_pkg").mkdir(parents=True)
        (tmp_path / place / "sitestest_pkg" / "__init__.py").write_text(code(tmp_path))
        (tmp_path / place / "sitestest_pkg" / "kinds.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    run = run_with(tmp_path, "sitestest_pkg.kinds")
    another_process(monkeypatch)
    load_remembered_plugins(run)
    assert list(loaded_plugins()) == ["sitestest_pkg.kinds"]
    another_process(monkeypatch)
    for name in ("sitestest_pkg.kinds", "sitestest_pkg"):
        monkeypatch.delitem(sys.modules, name)
    before = times(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "strange"))
    load_remembered_plugins(run)
    assert times(tmp_path) == before
    assert not loaded_plugins()


def test_an_identity_that_is_a_path_has_no_token(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(tmp_path, str(file))
    [token] = token_folder().iterdir()
    token.rename(tmp_path / "stolen.json")
    write_passport(run, {}, "../../stolen")
    another_process(monkeypatch)
    load_remembered_plugins(run)
    assert not loaded_plugins()
