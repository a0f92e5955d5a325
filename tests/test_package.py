"""What is shipped: every folder of code, under one top-level name, light to import and with its weights inside."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MAPPED = {"promptfed": "promptfed", "tasks": "promptfed.tasks", "blackbox": "promptfed.blackbox"}


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def python_files() -> list[Path]:
    folders = [*MAPPED, "tests", "scripts"]
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def run_python(code: str, *options: str) -> str:
    done = subprocess.run([sys.executable, "-P", *options, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_package_says_so_with_an_init_file() -> None:
    for top in MAPPED:
        for folder in {path.parent for path in (ROOT / top).rglob("*.py")}:
            assert (folder / "__init__.py").is_file(), folder


def test_nothing_imports_the_mapped_folders_by_their_bare_names() -> None:
    bare = re.compile(r"^\s*(?:from|import)\s+(?:tasks|blackbox)\b", re.MULTILINE)
    assert len(python_files()) > 20
    assert [path for path in python_files() if bare.search(path.read_text())] == []


def test_files_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): n for path in python_files() if (n := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_the_extras_name_extras_that_exist() -> None:
    extras = settings()["project"]["optional-dependencies"]
    for wanted in extras.values():
        for requirement in wanted:
            own = re.fullmatch(r"promptfed\[([\w,]+)\]", requirement)
            assert own is None or set(own[1].split(",")) <= set(extras)
    assert {"lit", "test", "dev"} <= set(extras)


def test_the_install_page_has_a_row_for_every_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    table = page.partition("\n| extra |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    named = {name for row in rows for text in row[:2] for name in re.findall(r"`([\w-]+)`", text)}
    assert set(settings()["project"]["optional-dependencies"]) <= named
    assert [row[0] for row in rows if len(row) != 3 or not re.search(r"\d", row[2])] == []


def test_every_python_that_ci_tests_is_named_to_pip_and_on_the_install_page() -> None:
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["all"]["strategy"][
        "matrix"
    ]
    classifiers = settings()["project"]["classifiers"]
    label = "Programming Language :: Python :: "
    assert {name.removeprefix(label) for name in classifiers if name.startswith(f"{label}3.")} == set(matrix["python"])
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| (3\.\d+) \|", page, re.M)) == set(matrix["python"])


# --------------------------------------------------------------------------------------------------- importing


def test_import_is_light() -> None:
    heavy = ("torch", "transformers", "open_clip", "datasets", "sklearn", "matplotlib", "numpy", "pydantic")
    code = f"import sys, promptfed\nprint([name for name in {heavy} if name in sys.modules])"
    assert run_python(code, "-E").strip() == "[]"


def test_config_and_errors_do_not_load_torch() -> None:
    code = "import sys, promptfed\npromptfed.RunConfig, promptfed.PromptFedError\nprint('torch' in sys.modules)"
    assert run_python(code).strip() == "False"


def test_every_public_name_is_there_and_few_are_enough() -> None:
    import promptfed

    assert len(promptfed.__all__) <= 16
    for name in promptfed.__all__:
        assert getattr(promptfed, name) is not None
    assert set(dir(promptfed)) == {*promptfed.__all__, "__version__"}
    assert promptfed.PromptState.__module__ == "promptfed.prompt_state"


def test_the_version_is_that_of_the_installed_package() -> None:
    import promptfed

    assert promptfed.__version__ == importlib.metadata.version("promptfed") == settings()["project"]["version"]


def test_a_wrong_name_is_an_attribute_error() -> None:
    import promptfed

    with pytest.raises(AttributeError, match="no attribute 'PromptStat'"):
        promptfed.PromptStat  # noqa: B018
    with pytest.raises(ImportError):
        from promptfed import PromptStat  # noqa: F401


def test_there_is_no_top_level_tasks_or_blackbox() -> None:
    code = (
        "import importlib.util as u, promptfed.tasks, promptfed.blackbox\n"
        "print([n for n in ('tasks', 'blackbox') if u.find_spec(n)])"
    )
    assert run_python(code).strip() == "[]"


# --------------------------------------------------------------------------------------------------- the wheel


@pytest.mark.slow
def test_the_wheel_holds_one_name_all_code_and_the_weights(tmp_path: Path) -> None:
    # Built from a copy: setuptools leaves a build folder in the sources and would reuse what is in an old one.
    source = tmp_path / "source"
    for folder in MAPPED:
        copytree(ROOT / folder, source / folder, ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 25e6
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"promptfed"}
    expected = {
        "/".join([MAPPED[top].replace(".", "/"), str(path.relative_to(ROOT / top))])
        for top in MAPPED
        for path in (ROOT / top).rglob("*.py")
    }
    weights = {f"promptfed/backbones/tiny_weights/{name}" for name in ("weights.safetensors", "config.json")}
    others = {"promptfed/py.typed", "promptfed/report/report.html.j2", "promptfed/report/charts/chart.css"}
    assert expected | weights | others <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".pt", ".pkl"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("words", [["list", "methods"], ["--version"], ["train", "--help"]])
def test_ctrl_c_while_modules_are_loaded_costs_one_line(words: list[str]) -> None:
    program = (
        "import sys, builtins\n"
        "from promptfed.__main__ import main\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name.startswith('typer'):\n"
        "        raise KeyboardInterrupt\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        f"sys.argv[1:] = {words!r}\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_a_commit_checks_what_ci_checks() -> None:
    """The programs of .ci/run's style and type steps are local hooks of pre-commit."""
    script = (ROOT / ".ci" / "run").read_text()
    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    ]
    for program in ("ruff check", "ruff format", "mypy"):
        assert re.search(rf"^run {program} ", script, re.MULTILINE)
        assert [hook["language"] for hook in hooks if program in hook.get("entry", "")] == ["system"]
