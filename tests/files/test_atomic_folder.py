"""A folder is there whole or not at all, after any kill and any fault, and nobody else's files are lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptfed.files import atomic_folder
from promptfed.files.atomic_folder import write_folder

OWN = frozenset({"a", "b", "c"})
BEFORE, AFTER = {"a": b"old", "b": b"old"}, {"a": b"new", "c": b"new" * 5000}
KILLED = """
import os, sys
from pathlib import Path
from promptfed.files import atomic_folder
steps, left = {names}, [int(sys.argv[2])]
def dying(call):
    def step(*arguments, **options):
        if left[0] == 0:
            os.kill(os.getpid(), 9)
        left[0] -= 1
        return call(*arguments, **options)
    return step
for holder, name in steps:
    setattr(holder, name, dying(getattr(holder, name)))
atomic_folder.write_folder(Path(sys.argv[1]), {after!r}, frozenset("abc"))
print(left[0])
""".replace("{after!r}", repr(AFTER)).replace(
    "{names}",
    "[(Path, 'mkdir'), (Path, 'rename'), (Path, 'rmdir'), (Path, 'unlink'), (atomic_folder, 'write_synced'), "
    "(atomic_folder, 'sync_folder')]",
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=[False, True], ids=["new", "replaced"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    target = tmp_path / "c.d"
    if request.param:
        write_folder(target, BEFORE, OWN)
    return target


def test_after_a_kill_at_any_step_the_next_writer_succeeds_and_leaves_nothing(place: Path) -> None:
    had = place.exists()
    seen = set()
    for step in range(30):
        words = [sys.executable, "-c", KILLED, str(place), str(step)]
        ended = subprocess.run(words, capture_output=True, text=True, check=False, cwd=place.parent)
        if place.exists():
            seen.add(contents(place)["a"])
            assert contents(place) in (BEFORE, AFTER), step
        write_folder(place, BEFORE, OWN)
        assert contents(place) == BEFORE
        assert [path.name for path in place.parent.iterdir()] == [place.name], step
        if ended.returncode == 0:
            break
        assert ended.returncode == -9, ended.stderr
        if not had:
            for path in place.iterdir():
                path.unlink()
            place.rmdir()
    assert 5 < step < 29
    assert seen == ({b"old", b"new"} if had else {b"new"})


def test_after_a_fault_at_any_step_everything_is_as_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    had = place.exists()
    for step in range(30):
        left = [step]

        def failing(call, left=left):
            def run(*arguments, **options):
                left[0] -= 1
                if left[0] == -1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return call(*arguments, **options)

            return run

        with monkeypatch.context() as patch:
            for name in ("mkdir", "rename"):
                patch.setattr(Path, name, failing(getattr(Path, name)))
            for name in ("write_synced", "sync_folder"):
                patch.setattr(atomic_folder, name, failing(getattr(atomic_folder, name)))
            try:
                write_folder(place, AFTER, OWN)
            except OSError:
                pass
            else:
                break
        assert [path.name for path in place.parent.iterdir() if path != place] == []
        assert place.exists() == had or contents(place) == AFTER
        if had:
            assert contents(place) in (BEFORE, AFTER)
            write_folder(place, BEFORE, OWN)
    assert 3 < step < 29
    assert contents(place) == AFTER
    assert [path.name for path in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize("name", [".c.d.old", ".c.d.new", ".c.d.promptfed-1.old", ".c.d.promptfed-x-0.draft", ".c.old"])
def test_folders_of_users_with_like_names_are_never_touched(place: Path, name: str) -> None:
    theirs = place.parent / name
    theirs.mkdir()
    (theirs / "thesis").write_text("x")
    (theirs / "a").write_text("x")
    write_folder(place, AFTER, OWN)
    assert contents(theirs) == {"thesis": b"x", "a": b"x"}


def test_files_of_users_in_a_leftover_are_kept(place: Path) -> None:
    """The name is ours to the letter, of a process that has ended, and somebody put a thesis there."""
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    theirs = place.parent / f".{place.name}.promptfed-{ended.stdout.strip()}-{'0' * 16}.draft"
    theirs.mkdir()
    (theirs / "thesis").write_text("x")
    write_folder(place, AFTER, OWN)
    assert contents(theirs) == {"thesis": b"x"}


def test_drafts_of_running_processes_are_left_to_them(place: Path) -> None:
    theirs = place.parent / f".{place.name}.promptfed-{os.getppid()}-{'0' * 16}.draft"
    theirs.mkdir()
    write_folder(place, AFTER, OWN)
    assert theirs.is_dir()


def test_long_names_have_a_draft_too(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 255)
    write_folder(target, AFTER, OWN)
    write_folder(target, BEFORE, OWN)
    assert contents(target) == BEFORE


def test_a_draft_that_could_not_be_removed_goes_with_the_next_write_of_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patches:
        for name in ("rename", "unlink", "rmdir"):
            patches.setattr(Path, name, refuse)
        with pytest.raises(OSError, match="Read-only"):
            write_folder(tmp_path / "c", AFTER, OWN)
    assert [path.suffix for path in tmp_path.iterdir()] == [".draft"]
    write_folder(tmp_path / "c", AFTER, OWN)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
