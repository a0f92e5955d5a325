"""Files written whole: links are not followed, modes are kept, leftovers are removed when their process has ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from promptfed.errors import DiskError
from promptfed.files.atomic import PRIVATE, append_bytes, remove_drafts, write_bytes, write_synced


@pytest.mark.parametrize("name", ["draft", "a.json", "ü b.txt"])
def test_a_link_is_never_written_through(tmp_path: Path, name: str) -> None:
    thesis = tmp_path / "thesis"
    thesis.write_text("years of work")
    (tmp_path / name).symlink_to(thesis)
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / name, b"x")
    write_bytes(tmp_path / name, b"x")
    assert thesis.read_text() == "years of work"
    assert (tmp_path / name).read_bytes() == b"x"


def test_private_files_are_the_owners(tmp_path: Path) -> None:
    write_bytes(tmp_path / "key", b"x", PRIVATE)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", ["nodir/x.png", "file/x", "a\nb/x"])
def test_a_refusal_is_one_line_with_the_path(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot write") as caught:
        write_bytes(tmp_path / place, b"x")
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DiskError, match="cannot write"):
        append_bytes(tmp_path / place, b"x")


def test_drafts_of_ended_processes_are_removed(tmp_path: Path) -> None:
    names = (".a.json.999999999.partial", ".a.json.999999999-0011aabb.partial", f".b.{os.getppid()}-0011aabb.partial")
    for name in (*names, ".thesis.partial"):
        (tmp_path / name).write_text("")
    remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[2], ".thesis.partial"])
