"""The task ``cot`` on an oracle that can do a sum: accuracy is exact match, whatever the method."""

from __future__ import annotations

import json
import re

import pytest
import torch

from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate, OracleAnswer
from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.evaluation import evaluate
from promptfed.experiment import Experiment
from promptfed.resolve import resolve


@pytest.fixture
def sums(tmp_path):
    """30 sums; the odd ones are too hard without an instruction to think."""
    rows = [{"question": f"What is {k} + 3?", "answer": f"{k} + 3 = {k + 3}\n#### {k + 3}"} for k in range(30)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"jsonl:{tmp_path / 'sums.jsonl'}"


@pytest.fixture
def experiment(backend, sums):
    def make(method, **options):
        def model_for(form):
            backend.form = form
            return Oracle(backend)

        def other(query):
            one = int(re.findall(r"What is (\d+) \+ 3", query.text)[-1])
            is_right = one % 2 == 0 or "think" in query.text.lower()
            return OracleAnswer(text=f" {one} + 3 = {one + 3 if is_right else 99}\n#### {one + 3 if is_right else 99}.")

        backend.other = other
        config = {"task": "cot", "data": sums, "method": method, "clients": 2, "rounds": 2, "shots": 4, **options}
        return Experiment.build(resolve(build_config(config)), model_for=model_for)

    return make


def run(experiment):
    federation = experiment.federation()
    method = federation.method
    state = federation.start()
    while state.round < method.rounds:
        state, _ = federation.run_round(state)
    return evaluate(method, federation.prompts(state), experiment.task).figures


@pytest.mark.parametrize(
    "options",
    [
        {"method": "zero_shot"},
        {"method": "fedlogic"},
        {"method": "fedtextgrad"},
        {"method": "fedspsc", "method_options": {"phrasings": 2}},
        {"method": "fedspsc", "method_options": {"variant": "dp"}},
    ],
)
def test_every_text_method_finds_or_votes_for_the_instruction_to_think(experiment, options):
    figures = run(experiment(**options))
    if options.get("method_options") == {"variant": "dp"}:  # examples alone do not make this oracle think
        assert figures.base < 1
    else:
        assert figures.local == figures.base == 1
    assert figures.new is None


def test_without_it_half_is_right(experiment):
    built = experiment("zero_shot", task_options={"prompts": [""], "demonstrations": 0})
    items = built.task.base_test.items
    wanted = sum(int(re.findall(r"\d+", item.text)[0]) % 2 == 0 for item in items) / len(items)
    assert run(built).base == pytest.approx(wanted)


def test_stop_strings_and_length_are_those_of_the_task(experiment, backend):
    built = experiment("zero_shot", task_options={"answer_tokens": 7, "stop": ["!"]})
    solve, asked = backend.other, []
    backend.other = lambda query: asked.append(query) or solve(query)
    run(built)
    assert {(query.max_tokens, query.stop, query.temperature) for query in asked} == {(7, ("!",), 0.0)}


def test_an_oracle_that_writes_nothing_is_refused_at_the_start(experiment, backend, monkeypatch):
    monkeypatch.setattr(type(backend), "abilities", frozenset({"text prompts", "soft prompts"}))
    with pytest.raises(ConfigError, match="task 'cot' needs an oracle with generation; 'toy' offers"):
        experiment("zero_shot")


def test_soft_prompts_have_no_place_before_a_question(experiment):
    built = experiment("zero_shot")
    with pytest.raises(ConfigError, match="text prompts only"):
        built.setup.oracle.score([Candidate(soft=torch.zeros(2, 4))], built.task.base_test.items, ("wrong", "right"))
