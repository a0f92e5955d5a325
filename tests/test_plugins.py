"""Other people's code: it runs if the user named it, in every process of the run, and never for a file's sake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from promptfed import plugins
from promptfed.errors import ConfigError

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
CODE = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S))
"""Of a file with one plug-in of each kind."""
FIVE = (
    *(
        "--task",
        "short-fewshot",
        "--method",
        "halved",
        "--aggregator",
        "slow_mean",
        "--data",
        "squares:6",
        "--backbone",
        "cold",
    ),
    *("--rounds", "1", "--shots", "1", "--clients", "2", "--threads", "1", "--baselines", "none"),
    *("--partition", "dirichlet", "--set", "task.test_per_class=2", "--set", "task.val_shots=1"),
)


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "mine.py"
    path.write_text(CODE)
    return path


def promptfed(*words: object, code: int = 0, **environment: str) -> str:
    """What the command prints, in a process of its own: a plug-in stays with the process that loaded it."""
    import os

    command = [sys.executable, "-P", "-m", "promptfed", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def run(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugged") / "run"
    promptfed("train", *FIVE, "--run", folder, "--plugin", plugin, "--quiet")
    return folder


def sha256(run: Path) -> str:
    digest: str = json.loads((run / "metrics.json").read_text())["prompt_sha256"]
    return digest


@pytest.mark.slow
def test_kinds_of_one_file_work_together_and_are_listed(run: Path, plugin: Path) -> None:
    assert len(sha256(run)) == 64
    page = promptfed("list", "methods", "--plugin", plugin, "--no-bytes")
    assert "halved (mine.py)" in page
    assert "mine.py" not in promptfed("list", "methods", "--no-bytes")


@pytest.mark.slow
def test_code_runs_only_where_the_user_says_so(run: Path, plugin: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    own = {"PROMPTFED_STATE": str(tmp_path / "another machine")}
    for words in (("export", run, "--client", "0", "--out", bundle), ("train", "--resume", run, "--rounds", "2")):
        assert f"runs only if you say so: add --plugin {plugin}" in promptfed(*words, code=2, **own)
    promptfed("export", run, "--client", "0", "--out", bundle, f"--plugin={plugin}", **own)
    promptfed("export", run, "--client", "0", "--out", tmp_path / "again", **own)  # it is asked for once
    picture = tmp_path / "picture.png"
    from PIL import Image

    Image.radial_gradient("L").convert("RGB").save(picture)
    assert "name the plug-in that has it by --plugin" in promptfed("predict", bundle, picture, code=2)
    assert "%" in promptfed("--plugin", plugin, "predict", bundle, picture)


@pytest.mark.slow
def test_a_stranger_s_config_names_a_plug_in_in_vain(tmp_path: Path) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "config.yaml").write_text(json.dumps({"plugins": {str(evil): "0" * 64}, "rounds": 1}))
    said = promptfed("train", "--config", tmp_path / "config.yaml", "--run", tmp_path / "run", code=2)
    assert "runs only if you say so" in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_other_code_under_the_name_is_said(run: Path, plugin: Path, tmp_path: Path) -> None:
    before = plugin.read_text()
    try:
        plugin.write_text(before + "\n# changed\n")
        said = promptfed("export", run, "--client", "0", "--out", tmp_path / "bundle", "--plugin", plugin)
    finally:
        plugin.write_text(before)
    assert f"plug-in {plugin} is not the code that run '{run}' was made with" in said


@pytest.mark.slow
def test_the_user_s_own_list(run: Path, plugin: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins.txt").write_text(f"# mine\n{plugin}\n\n")
    listed = {"PROMPTFED_PLUGINS": str(tmp_path / "plugins.txt")}
    assert "halved (mine.py)" in promptfed("list", "methods", "--no-bytes", **listed)
    missing = {"PROMPTFED_PLUGINS": str(tmp_path / "none.txt")}
    assert "cannot read PROMPTFED_PLUGINS" in promptfed("list", "tasks", code=2, **missing)


@pytest.mark.slow
def test_ray_s_actors_have_it_too(run: Path, plugin: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    ray = ("--engine", "ray", "--actors", "1")
    promptfed("train", *FIVE, *ray, "--run", tmp_path / "ray", "--plugin", plugin, "--quiet")
    assert sha256(tmp_path / "ray") == sha256(run)


@pytest.mark.parametrize(
    ("name", "code", "why"),
    [
        ("none.py", None, "is no file"),
        ("no_such_module_here", None, "no module that Python finds"),
        ("broken.py", "import no_such_module_here", "cannot be loaded: No module named"),
        ("wrong.py", "1 / 0", "ZeroDivisionError: division by zero"),
        ("twice.py", "from promptfed.aggregators.base import AGGREGATORS\nAGGREGATORS['mean']\n"
                     "AGGREGATORS.register('mean')(int)", "'mean' is registered twice"),
        ("taken.py", "from promptfed.measures.base import MEASURES, Measure\n"
                     "MEASURES.register('accuracy')(type('Mine', (Measure,), {'name': 'x', 'better': 'higher'}))",
         "measure 'accuracy' is registered twice"),
        ("left.py", "raise SystemExit(0)", "SystemExit: 0"),
        ("base.py", "raise BaseException('all')", "BaseException: all"),
        ("mute.py", "class Mute(Exception):\n    def __str__(self): return 1 / 0\nraise Mute", "Mute: Mute"),
        ("bare.py", "from promptfed.method import METHODS\nMETHODS.register('bare')(int)", "lacks name, paper"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, name: str, code: str | None, why: str) -> None:
    if code is not None:
        (tmp_path / name).write_text(code)
    before = dict(plugins._loaded)
    with pytest.raises(ConfigError, match=why) as error:
        plugins.load_plugin(str(tmp_path / name) if name.endswith(".py") else name)
    assert "\n" not in str(error.value)
    assert plugins._loaded == before


def test_two_files_that_register_one_name_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptfed.measures.base import MEASURES

    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(MEASURES, "_entries", {name: MEASURES[name] for name in MEASURES})
    code = "from promptfed.measures.accuracy import Accuracy\nfrom promptfed.measures.base import MEASURES\n"
    code += "MEASURES.register('quarter')(type('Quarter', (Accuracy,), {'__module__': __name__}))"
    for name in ("one.py", "other.py"):
        (tmp_path / name).write_text(code)
    plugins.load_plugin(tmp_path / "one.py")
    with pytest.raises(
        ConfigError, match=rf"'quarter' is registered twice: in {tmp_path}/one\.py and {tmp_path}/other"
    ):
        plugins.load_plugin(tmp_path / "other.py")


def test_a_plug_in_that_adds_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugins, "_loaded", {})
    plugins.load_plugin("numpy")
    assert caplog.messages == ["plug-in 'numpy' adds nothing to promptfed: it registers no method, data or model"]
    plugins.load_plugin("promptfed.methods.promptfl")  # what it has is there already
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("name", [3, None, "x" * 5000 + ".py", "a\0.py", ""])
def test_what_is_no_plug_in_is_one_line(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"^plug-in [^\n]{,400}$"):
        plugins.load_plugin(name)


def test_twice_is_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_loaded", {})
    (tmp_path / "one.py").write_text("import builtins\nbuiltins.counted = getattr(builtins, 'counted', 0) + 1")
    import builtins

    for path in (tmp_path / "one.py", str(tmp_path / "." / "one.py")):
        plugins.load_plugin(path)
    counted: Any = builtins.counted  # type: ignore[attr-defined]
    assert counted == 1
    assert list(plugins.loaded_plugins()) == [str(tmp_path / "one.py")]


@pytest.mark.slow
def test_a_built_in_s_name_cannot_be_taken_before_it_is_asked_for(tmp_path: Path) -> None:
    """In a process that has read no registry yet."""
    (tmp_path / "mine.py").write_text(
        "from promptfed.aggregators.base import AGGREGATORS, Aggregator\n"
        "@AGGREGATORS.register('mean')\nclass Mine(Aggregator):\n    pass\n"
    )
    said = promptfed("list", "aggregators", "--plugin", tmp_path / "mine.py", code=2)
    assert "aggregator 'mean' is registered twice" in said
    assert said.count("\n") == 1


def test_a_file_that_failed_can_be_mended_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptfed.measures.base import MEASURES

    monkeypatch.setattr(plugins, "_loaded", {})
    code = (
        "from promptfed.measures.base import MEASURES\n"
        "MEASURES.register('mended')(type('Mended', (MEASURES['nll'],), {'__module__': __name__}))\n"
    )
    (tmp_path / "mended.py").write_text(code + "1 / 0")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        plugins.load_plugin(tmp_path / "mended.py")
    assert "mended" not in MEASURES
    (tmp_path / "mended.py").write_text(code)
    plugins.load_plugin(tmp_path / "mended.py")
    assert "mended" in MEASURES
    monkeypatch.delitem(MEASURES._entries, "mended")
