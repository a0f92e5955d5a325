"""`scripts/remake_results.py`: blocks of a page are found, run, kept, and left out where data are missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = """# Results

## A table

Words `promptfed train` of a line.

    C="--rounds 2"
    promptfed train $C  # two rounds

| | base |

```console
$ promptfed compare --methods fedprox \\
      --seeds 2
```

## Other

    only = "python"

```console
$ promptfed train --data tsv:$PROMPTFED_DATA/sst2
```
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("remake_results", ROOT / "scripts" / "remake_results.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def made_up(tmp_path, commands):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("promptfed train $C  # two rounds", commands))
    return ["--page", str(page), "--out", str(tmp_path / "out")]


def test_indented_and_fenced_blocks_are_found(script):
    first, second, third = script.blocks(PAGE)
    assert first.name == "a-table-1"
    assert first.commands == 'C="--rounds 2"\npromptfed train $C  # two rounds'
    assert second.name == "a-table-2"
    assert second.first == "promptfed compare --methods fedprox --seeds 2"
    assert not second.needs_data
    assert third.name == "other-1"
    assert third.needs_data


def test_every_block_of_the_page_is_whole(script):
    found = list(script.blocks((ROOT / "docs" / "results.md").read_text(encoding="utf-8")))
    assert len({block.name for block in found}) == len(found) > 30
    for block in found:
        assert subprocess.run(["bash", "-n", "-c", block.commands], check=False).returncode == 0, block.name
        assert "..." not in block.commands, block.name
        assert " DATA" not in block.commands, block.name
        assert "remake_results" not in block.commands, "it would call itself"


def test_what_has_ended_well_is_kept_and_what_failed_is_run_again(script, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PROMPTFED_DATA", raising=False)
    words = made_up(tmp_path, 'promptfed() { echo "$@"; }\n    promptfed train $C\n    [ -e ../twice ]')
    assert script.main([*words, "--only", "a-table-1,other"]) == 1
    said = capsys.readouterr().out
    assert "a-table-1: failed with code 1" in said
    assert "other-1: left out, it needs --data-root" in said
    assert (tmp_path / "out" / "a-table-1" / "output.part").read_text() == "train --rounds 2\n"
    (tmp_path / "out" / "twice").touch()
    assert script.main([*words, "--only", "a-table-1"]) == 0
    assert (tmp_path / "out" / "a-table-1" / "output.txt").read_text() == "train --rounds 2\n"
    capsys.readouterr()
    assert script.main([*words, "--only", "a-table-1"]) == 0
    assert "is there" in capsys.readouterr().out
    words = made_up(tmp_path, "promptfed() { echo other; }\n    promptfed train $C")
    assert script.main([*words, "--only", "a-table-1"]) == 0
    assert (tmp_path / "out" / "a-table-1" / "output.txt").read_text() == "other\n", "other commands on the page"


def test_an_unknown_name_is_one_line(script, capsys):
    with pytest.raises(SystemExit) as ended:
        script.main(["--only", "nothing-like-it"])
    assert ended.value.code == 2
    assert "--list has the names" in capsys.readouterr().err
