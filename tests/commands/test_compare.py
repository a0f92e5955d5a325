from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def words(small):
    """The small run's options; few enough steps that two seeds of three methods take seconds."""
    return [*small, "--methods", "promptfl", "--set", "method.n_ctx=2"]


@pytest.fixture(scope="module")
def compared(words, tmp_path_factory):
    from promptfed.cli import main

    folder = tmp_path_factory.mktemp("comparisons") / "one"
    with pytest.raises(SystemExit) as ended:
        main(["compare", *words, "--seeds", "2", "--out", str(folder), "--quiet"])
    assert ended.value.code == 0
    return folder


def test_everything_is_written(compared):
    found = json.loads((compared / "comparison.json").read_text())
    assert set(found["methods"]) == {"zero_shot", "local_only", "promptfl"}
    assert found["seeds"] == found["partition_seeds"] == [0, 1]
    assert (compared / "comparison.png").read_bytes().startswith(b"\x89PNG")
    page = (compared / "comparison.html").read_text()
    assert "accuracy against bytes" in page
    assert 'href="promptfl/seed-1/report.html"' in page
    assert "paired t-test over seeds" in page
    assert "{{" not in page
    assert "| `promptfl` |" in (compared / "comparison.md").read_text()


def test_again_prints_the_tables_and_runs_nothing(compared, words, promptfed):
    before = (compared / "promptfl" / "seed-0" / "events.jsonl").read_bytes()
    said = promptfed("compare", *words, "--seeds", 2, "--out", compared)
    assert said.code == 0, said.err
    assert "±" in said.out
    assert "promptfl" in said.out
    assert "comparison.html" in "".join(said.out.split())
    assert (compared / "promptfl" / "seed-0" / "events.jsonl").read_bytes() == before


def test_json_is_the_file_and_nothing_else(compared, words, promptfed):
    said = promptfed("compare", *words, "--seeds", 2, "--out", compared, "--json")
    assert json.loads(said.out) == {**json.loads((compared / "comparison.json").read_text()), "out": str(compared)}


def test_more_seeds_add_runs_and_keep_the_others(compared, words, promptfed):
    kept = (compared / "promptfl" / "seed-1" / "events.jsonl").read_bytes()
    said = promptfed("compare", *words, "--seeds", 3, "--out", compared)
    assert said.code == 0, said.err
    assert "seed 2" in said.err
    assert "seed 1" not in said.err
    assert (compared / "promptfl" / "seed-1" / "events.jsonl").read_bytes() == kept


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--methods", "promptfi"], "Did you mean 'promptfl'"),
        (["--set", "method.n_ctx=8"], "was made with other options"),
        (["--search", "lr=3"], "must look like method.OPTION="),
        (["--seeds", "0"], "seeds is 0"),
        (["--set", "rounds=none"], "rounds"),
    ],
)
def test_errors_are_one_line(compared, words, promptfed, extra, said):
    found = promptfed("compare", *words, "--out", compared, *extra)
    assert found.code == 2
    assert said in found.err
    assert len(found.err.strip().splitlines()) == 1


def test_a_run_of_a_comparison_is_a_run_like_any_other(compared, promptfed):
    said = promptfed("eval", compared / "promptfl" / "seed-0", "--json")
    assert said.code == 0, said.err
    metrics = json.loads((compared / "promptfl" / "seed-0" / "metrics.json").read_text())
    assert next(iter(json.loads(said.out).values()))["method"] == metrics["method"]


@pytest.mark.parametrize("methods", ["", ",", " , "])
def test_no_methods_are_refused(promptfed, tmp_path, monkeypatch, methods):
    monkeypatch.chdir(tmp_path)
    said = promptfed("compare", "--methods", methods)
    assert (said.code, said.err) == (2, "error: --methods names none: give names with commas between them, or all\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "shown"), [("latex", r"\toprule"), ("csv", "base_mean"), ("md", "| PromptFL |")])
def test_the_table_is_exported_now_and_later(compared, words, promptfed, tmp_path, kind, shown):
    now = promptfed("compare", *words, "--seeds", 2, "--out", compared, "--export", kind)
    assert now.code == 0, now.err
    said = promptfed("report", compared, "--export", kind)
    assert (said.code, said.err, said.out) == (0, "", now.out)
    assert shown in said.out
    file = tmp_path / "table"
    assert promptfed("report", compared, "--export", kind, "--export-file", file, "-q").out == f"{file}\n"
    assert file.read_text() == said.out
    of_run = promptfed("report", compared / "promptfl" / "seed-0", "--export", kind)
    assert shown in of_run.out


def test_the_page_of_a_comparison_is_written_anew(compared, promptfed):
    (compared / "comparison.html").unlink()
    assert promptfed("report", compared, "--quiet").out == f"{compared / 'comparison.html'}\n"
    assert "paired t-test over seeds" in (compared / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--export", "latx"], "Did you mean 'latex'"),
        (["--export-file", "x.tex"], "--export-file goes with --export"),
        (["--export", "csv", "--json"], "leave one of them out"),
    ],
)
def test_bad_exports_are_one_line(compared, promptfed, extra, said):
    found = promptfed("report", compared, *extra)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert said in found.err


def test_a_comparison_that_was_forged_is_one_line(promptfed, tmp_path):
    (tmp_path / "comparison.json").write_text('{"methods": {"a": {"runs": [3]}}}')
    for more in ([], ["--export", "csv"]):
        found = promptfed("report", tmp_path, *more)
        assert (found.code, found.err.count("\n")) == (2, 1), found.err
