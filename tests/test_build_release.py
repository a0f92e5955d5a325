"""The sdist and the wheel are the same bytes wherever they are built, and the sdist holds what a packager needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "build_release.py"


@pytest.mark.slow
def test_builds_are_the_same_and_whole(tmp_path: Path):
    pytest.importorskip("setuptools")
    call = [sys.executable, "-P", str(SCRIPT), str(tmp_path), "--twice"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    said = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "built twice, with the same bytes" in said.stdout
    [wheel], [sdist] = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        inside = {member.name.partition("/")[2] for member in members}
        assert {(member.mtime, member.uid, member.uname) for member in members} == {(1700000000, 0, "")}
    for name in ("CHANGELOG.md", "docs/methods.md", "tests/conftest.py", "scripts/build_release.py", "tasks/base.py"):
        assert name in inside
    assert not [name for name in inside if "__pycache__" in name or name.startswith(("runs/", "docs/reference/"))]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {info.external_attr >> 16 & 0o777 for info in archive.infolist()} <= {0o644, 0o664}
    assert {"promptfed/commands/completions.json", "promptfed/tasks/base.py", "promptfed/blackbox/base.py"} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "tasks/"))]
