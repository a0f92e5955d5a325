"""Names that are no paths cost themselves their answer, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from promptfed.export.image_files import find_image_files


@pytest.mark.parametrize(
    ("name", "said"), [("", "its name is empty"), ("x" * 300, "File name too long"), ("a\0b", "null")]
)
def test_a_name_that_is_no_path_is_a_problem_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("good.png")
    files = find_image_files([name, "good.png"])
    assert files.readable == (Path("good.png"),)
    assert [said in problem for problem in files.problems.values()] == [True]
