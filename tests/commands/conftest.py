from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from promptfed.cli import main
from promptfed.commands.empty_paths import refuse_empty_paths
from promptfed.commands.help_page import build_command


class Said(NamedTuple):
    code: int
    out: str
    err: str


@functools.cache
def built(app: Any) -> Any:
    """The commands, read from their functions once: that takes longer than most commands."""
    return build_command(refuse_empty_paths(app))


@pytest.fixture
def promptfed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """``promptfed("list", "methods")``: run the command line in this process."""
    monkeypatch.setattr("promptfed.cli.build_command", built)
    monkeypatch.setattr("promptfed.cli.refuse_empty_paths", lambda app: app)

    def run(*words: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run that takes a second or two: 12 classes of plain pictures, 3 clients, 2 rounds."""
    folder = tmp_path_factory.mktemp("pictures")
    names = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx"]
    for k, name in enumerate(names):
        (folder / name).mkdir()
        for i in range(6):
            colour = (20 * k, (90 * k + 11 * i) % 256, 255 - 20 * k)
            Image.new("RGB", (16, 16), colour).save(folder / name / f"{i}.png")
    options = "--clients 3 --shots 2 --rounds 2 --set task.val_shots=1 --set method.batch_size=2"
    # The bits depend on the number of threads, and other tests in this process may have set it.
    options += " --set threads=1"
    # These pictures are as plain as icons: the icons' model and protocol, half of the classes new, are quick.
    options += " --partition classes --set task.base_fraction=0.5 --backbone tiny"
    return ["--task", "clip-fewshot", "--data", f"folder:{folder}", *options.split()]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """A finished small run, to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    with pytest.raises(SystemExit) as ended:
        main(["train", *small, "--run", str(folder), "--quiet"])
    assert ended.value.code == 0
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    lines = ["text\tlabel"]
    for k in range(40):
        warm, cold = ("fire", "lava", "fire lava")[k % 3], ("ice", "snow", "snow ice")[k % 3]
        lines.append(f"the {warm} {k} {'snow' if k % 5 else ''}\thot" if k % 2 else f"the {cold} {k}\tcold")
    (tmp_path / "heat.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "heat.tsv"


@pytest.fixture
def words(texts: Path) -> Callable[..., list[str]]:
    """Options of a run of a second on a stub."""

    def make(stub: Any, method: str = "fedbdpl") -> list[str]:
        plain = "--model toy-1 --clients 2 --rounds 2 --shots 2 --set task.val_shots=1 --baselines zero_shot"
        fast = "--set oracle.backoff_seconds=0.002 --set oracle.retries=12"
        search = [] if method == "zero_shot" else ["--set", "method.queries=24", "--set", "method.batch_size=4"]
        return ["--task", "blackbox-text", "--data", f"tsv:{texts}", "--oracle", "api", "--base-url", stub.base_url,
                "--method", method, *plain.split(), *fast.split(), *search]  # fmt: skip

    return make
