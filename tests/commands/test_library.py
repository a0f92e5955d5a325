"""`promptfed library`: a run's shared text prompt goes in, and a newcomer's pool comes out."""

from __future__ import annotations

import json

import pytest

from promptfed.export.library import nearest
from promptfed.records.library import Entry, read_library, write_library

SMALL = ["--task", "blackbox-text", "--clients", 2, "--shots", 2, "--set", "task.test_per_class=3", "--quiet"]


def entry(task, prompt, clients=1, model="minilm"):
    return Entry(task, model, prompt, 10 * clients, clients, (prompt,))


ENTRIES = [
    entry("Sort messages to customer service.", "What does this customer want?", 2),
    entry("Is a film review positive?", "What does the writer feel?", 9),
    entry("Requests to a shop's support desk.", "A message to customer service:", 1, "gemma"),
]


@pytest.fixture
def library(tmp_path):
    write_library(tmp_path / "prompts.jsonl", ENTRIES)
    return tmp_path / "prompts.jsonl"


def test_the_nearest_tasks_come_first_then_those_of_most_clients():
    by_support = [one.clients for one, _ in nearest(ENTRIES, "", None)]
    assert by_support == [9, 2, 1]
    prompts = [one.prompt for one, _ in nearest(ENTRIES, "What do customers of a shop write for?", None)]
    assert prompts[-1] == "What does the writer feel?"
    assert [one.model for one, _ in nearest(ENTRIES, "", "gemma")] == ["gemma"]


def test_quiet_prints_a_pool(promptfed, library):
    said = promptfed("library", "list", library, "What do customers want?", "--oracle", "minilm", "-q")
    assert said.out.splitlines() == ["What does this customer want?", "What does the writer feel?"]
    rows = json.loads(promptfed("library", "list", library, "--json", "--top", 1).out)
    assert [row["clients"] for row in rows] == [9]
    assert "holds no prompt of oracle x" in promptfed("library", "list", library, "--oracle", "x").out


def test_from_a_run_into_a_library_and_from_a_pool_into_a_run(promptfed, tmp_path, library):
    """A newcomer picks by its own examples, without training: FedLogic scores each prompt of the pool once."""
    run, new, pool = tmp_path / "run", tmp_path / "mine.jsonl", tmp_path / "pool.txt"
    pool.write_text(promptfed("library", "list", library, "-q").out)
    words = ["--rounds", 1, "--baselines", "none", "--method", "fedlogic", "--set", f"method.prompts=file:{pool}"]
    words += ["--set", "method.keep_zero_shot=false"]
    assert promptfed("train", *SMALL, *words, "--run", run).code == 0
    for _ in range(2):
        added = promptfed("library", "add", new, run, "--about", "Sort messages.", "-q")
        assert added.code == 0
    [kept] = read_library(new)[0]
    assert (kept.prompt, kept.model, kept.clients) == (added.out.strip(), "minilm", 2), "the same run counts once"
    assert kept.prompt in pool.read_text().splitlines()
    assert promptfed("train", *SMALL[:2], *SMALL[4:], "--clients", 1, *words, "--run", tmp_path / "newcomer").code == 0
    said = promptfed("library", "add", new, tmp_path / "newcomer", "--about", "Sort messages.", "--json")
    assert json.loads(said.out)["added"]["clients"] == 1


@pytest.mark.slow
def test_other_prompts_are_refused_in_a_line(promptfed, tmp_path):
    words = [*SMALL, "--rounds", 1, "--baselines", "none"]
    empty = [*words, "--method", "fedlogic", "--set", "method.prompts=['', 'zebra zebra zebra zebra']"]
    soft = [*words, "--method", "fedavg_bbt", "--set", "method.queries=40", "--set", "method.batch_size=4"]
    shown = [*words, "--method", "fedicl"]
    for name, options, why in (
        ("soft", soft, "no text prompt"),
        ("shown", shown, "a prompt of several lines"),
        ("empty", empty, "ends with the empty prompt"),
    ):
        options = [*options, "--set", "method.keep_zero_shot=false"]
        assert promptfed("train", *options, "--run", tmp_path / name).code == 0
        said = promptfed("library", "add", tmp_path / "l.jsonl", tmp_path / name, "--about", "Sort messages.")
        assert (said.code, said.out) == (2, "")
        assert why in said.err
        assert said.err.count("\n") == 1
        assert not (tmp_path / "l.jsonl").exists()
