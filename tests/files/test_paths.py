"""What a program hands over as a path is one, or an error of one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import promptfed as pf
from promptfed.files.paths import checked_path, make_private_folder


@pytest.mark.parametrize("value", [3, None, b"run", "", "x" * 5000, "a\0b", ["run"]])
@pytest.mark.parametrize("opened", [lambda v: checked_path(v, "path"), pf.load_run, pf.load])
def test_what_is_no_path_is_one_line(opened: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(pf.PromptFedError, match=r"^path is [^\n]{,350}$"):
        opened(value)


def test_a_folder_that_no_disk_takes_is_refused_before_anything_begins() -> None:
    for argument in ("folder", "config", "init"):
        with pytest.raises(pf.PromptFedError, match=rf"^{argument} is 'a\\x00b'"):
            pf.train(**{argument: "a\0b"}, progress=False)


def test_a_path_need_not_be_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file" / "below", tmp_path):
        assert checked_path(os.fspath(path), "path") == checked_path(path, "path") == path


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_private_folder_is_closed_and_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    make_private_folder(tmp_path / "there" / "state" / "run")
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "there", tmp_path / "there/state/run")]
    assert modes == [0o755, 0o700]
    assert (tmp_path / "there/state").stat().st_mode & 0o777 == 0o700
    make_private_folder(tmp_path / "there")
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_private_folder(tmp_path / "file" / "below")
