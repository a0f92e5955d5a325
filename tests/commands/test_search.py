"""`promptfed search`: a table, one request, and what is refused."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from promptfed.cli import main

    folder = tmp_path_factory.mktemp("search") / "run"
    words = ["--task", "federated-search", "--set", "task.judged=20", "--baselines", "none", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(["train", *words, "--threads", "1", "--run", str(folder)])
    assert ended.value.code == 0
    return folder


@pytest.mark.slow
def test_the_table_has_every_index_and_selection(promptfed, run):
    said = promptfed("search", run, "--quiet")
    assert said.code == 0, said.err
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert {row[0] for row in rows} == {"bm25", "cosine"}
    figures = {(index, by): float(value) for index, by, _, value in rows}
    assert figures["cosine", "descriptor"] > figures["cosine", "random"]
    assert json.loads(promptfed("search", run, "--json", "--ask", "1").out)[0]["asked"] == 1


def test_a_request_is_answered_by_the_engines_that_are_asked(promptfed, run):
    said = promptfed("search", run, "roses with black spots lose leaves", "--ask", "2", "--json")
    assert said.code == 0, said.err
    answer = json.loads(said.out)
    assert len(answer["asked"]) == 2
    assert {hit["engine"] for hit in answer["hits"]} <= set(answer["asked"])
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    shown = promptfed("search", run, "roses with black spots lose leaves", "--index", "bm25")
    assert shown.out.startswith("asked: ")


def test_a_run_of_another_task_is_one_line(promptfed, small, tmp_path):
    made = promptfed("train", *small, "--baselines", "none", "--quiet", "--run", tmp_path / "run")
    assert made.code == 0, made.err
    said = promptfed("search", tmp_path / "run")
    assert said.code == 2
    assert "promptfed search needs federated-search" in said.err


@pytest.mark.parametrize("request_text", ["", " \n"])
def test_an_empty_request_is_refused(promptfed, run, request_text):
    said = promptfed("search", run, request_text)
    assert said.code == 2
    assert "the request is empty: write what is asked" in said.err
