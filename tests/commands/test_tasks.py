from __future__ import annotations

import json

import pytest
from PIL import Image


def test_report_is_written_again(promptfed, finished):
    promptfed("report", finished)
    before = (finished / "report.html").read_bytes()
    said = promptfed("report", finished)
    assert said.code == 0
    assert said.out.strip() == str(finished / "report.html")
    assert (finished / "report.html").read_bytes() == before


def test_tasks_show_says_who_holds_what(promptfed, small, tmp_path):
    words = list(small)
    for flag in ("--rounds", "--backbone"):
        at = words.index(flag)
        del words[at : at + 2]
    said = promptfed("tasks", "show", *words, "--plot", tmp_path / "who.png", "--json")
    assert said.code == 0, said.err
    table = json.loads(said.out)
    assert [sum(c["train"]) for c in table["clients"]] == [4, 4, 4]
    assert (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG")
    assert "6 base classes" in promptfed("tasks", "show", *words).out


@pytest.mark.parametrize(("lone", "shared"), [(1, 2), (2, 2), (3, 0)])
def test_tasks_show_marks_clients_with_one_class(promptfed, tmp_path, lone, shared):
    """``lone`` clients have a domain with a class of its own, ``shared`` ones the same two classes."""
    places = [(f"alone {k}", (f"only {k}",)) for k in range(lone)]
    places += [(f"both {k}", ("cat", "dog")) for k in range(shared)]
    for k, (domain, classes) in enumerate(places):
        for name in classes:
            (tmp_path / "photos" / domain / name).mkdir(parents=True)
            for i in range(6):
                colour = (20 * k, 40 * i, 90 * classes.index(name))
                Image.new("RGB", (16, 16), colour).save(tmp_path / "photos" / domain / name / f"{i}.png")
    words = ["--data", f"folder:{tmp_path / 'photos'}", "--partition", "domain", "--shots", 2, "--set", "backbone=tiny"]
    said = promptfed("tasks", "show", *words)
    assert said.code == 0, said.err
    text = " ".join(said.out.split())
    assert text.count("(one class)") == lone
    are = "1 client holds one class, and is" if lone == 1 else f"{lone} clients hold one class each, and are"
    assert f"{are} left out of local accuracy: alone 0" in text
    table = json.loads(promptfed("tasks", "show", *words, "--json").out)
    assert [c["name"] for c in table["clients"] if c["one_class"]] == [name for name, _ in places[:lone]]


def test_tasks_show_prints_its_notes_in_json_and_names_the_csv_file(promptfed, tmp_path):
    for k, name in enumerate(("cat", "dog")):
        for i in range(5):
            Image.new("RGB", (8, 8), (9 * i, 90 * k, 40)).save(tmp_path / f"{name}{i}.png")
    rows = [f"{name}{i}.png,{name},{i % 2}" for name in ("cat", "dog") for i in range(5)]
    (tmp_path / "who.csv").write_text("\n".join(["path,label,client", *rows, "gone.png,cat,0"]))
    said = promptfed("tasks", "show", "--partition", f"csv:{tmp_path / 'who.csv'}", "--json")
    assert said.code == 0, said.err
    assert any("gone.png" in note for note in json.loads(said.out)["notes"])
    shown = promptfed("tasks", "show", "--partition", f"csv:{tmp_path / 'who.csv'}").out
    assert "who.csv" in shown.replace("\n", "").replace(" ", "")
    assert "icons" not in shown
