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


def test_patterns_and_tables_stand_for_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.png", "photos/a.png", "photos/deep/c.png", "[odd].png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(name)
    assert find_image_files(["photos/*.png"]).readable == (Path("photos/a.png"), Path("photos/b.png"))
    deep = find_image_files(["photos/**/*.png"]).readable
    assert set(deep) == {Path("photos/a.png"), Path("photos/b.png"), Path("photos/deep/c.png")}
    assert find_image_files(["[odd].png"]).readable == (Path("[odd].png"),)  # a file of that very name
    Path("photos/list.csv").write_text("who,PATH\n1,a.png\n2,deep/c.png\n3,photos/b.png\n4,none.png\n")
    files = find_image_files(["photos/list.csv"])
    assert files.readable == (Path("photos/a.png"), Path("photos/deep/c.png"), Path("photos/b.png"))
    assert list(files.problems) == [Path("photos/none.png")]
    assert files.notes == ("4 images in photos/list.csv",)
    [problem] = find_image_files(["none/*.jpg"]).problems.values()
    assert problem == "no file fits the pattern none/*.jpg"
