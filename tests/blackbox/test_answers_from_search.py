"""The task ``federated-answers`` on an oracle that answers only when it is told how."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate, OracleAnswer
from promptfed.config import build_config
from promptfed.evaluation import accuracy
from promptfed.experiment import Experiment
from promptfed.language_models.gemma import PACKAGE
from promptfed.resolve import resolve
from promptfed.tasks.federated_answers import PROMPTS, RIGHT
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


@pytest.mark.slow
@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="needs the package with Gemma")
def test_gemma_copies_answers_from_documents_and_knows_none_without(gemma_once) -> None:
    """Measured on 16 questions: 7 behind the documents that answer, 0 without any."""
    right = {}
    for context in ("gold", "none"):
        options = {"task": "federated-answers", "method": "zero_shot", "task_options": {"context": context, "tests": 8}}
        experiment = Experiment.build(resolve(build_config(options)))
        task = experiment.task
        scores = experiment.setup.oracle.score([Candidate(PROMPTS[2])], task.base_test.items, task.base_classes)[0]
        right[context] = int(scores[:, RIGHT].sum())
    assert right["none"] == 0
    assert right["gold"] >= 2
