from __future__ import annotations

import json


def test_report_is_written_again(promptfed, finished):
    before = (finished / "report.html").read_bytes()
    said = promptfed("report", finished)
    assert said.code == 0
    assert said.out.strip() == str(finished / "report.html")
    assert (finished / "report.html").read_bytes() == before


def test_tasks_show_says_who_holds_what(promptfed, small, tmp_path):
    words = list(small)
    at = words.index("--rounds")
    del words[at : at + 2]
    said = promptfed("tasks", "show", *words, "--plot", tmp_path / "who.png", "--json")
    assert said.code == 0, said.err
    table = json.loads(said.out)
    assert [sum(c["train"]) for c in table["clients"]] == [4, 4, 4]
    assert (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG")
    assert "6 base classes" in promptfed("tasks", "show", *words).out
