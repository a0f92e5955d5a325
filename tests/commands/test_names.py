"""Names of a user's files and classes on the command line: shown, never obeyed."""

from __future__ import annotations

import pytest
from PIL import Image


@pytest.mark.parametrize("label", ["[red]bold", "[/b]", r"$\bad$", ":smile:"])
def test_labels_of_a_table_are_no_markup(promptfed, tmp_path, label):
    rows = [f"the {n} of {name}\t{name}" for name in (label, "plain") for n in range(12)]
    (tmp_path / "texts.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    shown = promptfed("tasks", "show", "--task", "blackbox-text", "--data", f"tsv:{tmp_path / 'texts.tsv'}",
                      "--clients", 2, "--shots", 2, "--plot", tmp_path / "who.png")  # fmt: skip
    assert shown.code == 0, shown.err
    assert label in shown.out
    assert (tmp_path / "who.png").stat().st_size > 1_000


def test_folders_with_escape_codes_move_no_terminal(promptfed, tmp_path):
    names = ["\x1b[31mred", "[/b]", r"$\bad$", "dog"]
    for k, name in enumerate(n.replace("/", "-") for n in names):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.new("RGB", (8, 8), (40 * k, 20 * i, 90)).save(tmp_path / name / f"{i}.png")
    shown = promptfed("tasks", "show", "--data", f"folder:{tmp_path}", "--clients", 1, "--shots", 1)
    assert "\x1b" not in shown.out
    assert "\x1b" not in shown.err


def test_an_error_shows_the_name_that_is_wrong_without_obeying_it(promptfed):
    shown = promptfed("report", "runs/\x1b[2J[red]none")
    assert shown.code == 2
    assert "\\x1b[2J[red]none" in shown.err
    assert "\x1b" not in shown.err
