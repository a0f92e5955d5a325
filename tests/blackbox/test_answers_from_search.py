"""The task ``federated-answers`` on an oracle that answers only when it is told how."""

from __future__ import annotations

from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import OracleAnswer
from promptfed.config import build_config
from promptfed.evaluation import accuracy
from promptfed.experiment import Experiment
from promptfed.resolve import resolve
from promptfed.tasks.sources.retrieval import load_collection


def test_the_instruction_that_helps_is_chosen(backend) -> None:
    """An oracle that quotes its text only when it is told to copy."""
    answers = {request.text: request.answer for request in load_collection("texts:search").requests}

    def other(query):
        question = query.text.split("Question: ")[-1].split("\n")[0]
        return OracleAnswer(text=f"It is {answers[question]}." if "Copy the words" in query.text else "I do not know.")

    backend.other = other

    def model_for(form):
        backend.form = form
        return Oracle(backend)

    config = {"task": "federated-answers", "rounds": 1, "method": "fedlogic", "task_options": {"shots": 2, "tests": 8}}
    experiment = Experiment.build(resolve(build_config(config)), model_for=model_for)
    federation = experiment.federation()
    state, _ = federation.run_round(federation.start())
    task, method = experiment.task, federation.method
    prompt = federation.prompt(state, None)
    assert "Copy the words" in method.candidate(prompt.shared, prompt.personal).text
    assert accuracy(method, prompt, task.base_classes, task.base_test) == 1
