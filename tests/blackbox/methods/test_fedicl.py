"""Fed-ICL: what a client sends is its weighted answers, a sum gives the consensus, and no private text leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.blackbox.methods.fedicl import ANSWERS, FLOOR, OWN, TAG, WEIGHT, FedICL, FedICLConfig, in_turn
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError, TrainingError
from promptfed.examples.base import TextItem
from promptfed.federation import Federation
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast
from promptfed.worked_examples import examples_in

QUESTIONS = ("fire a", "ice b", "lava c", "snow d", "mild e")


def make(setup, **options):
    return FedICL(FedICLConfig(**{"questions": QUESTIONS, "own": 2, "shown": 4, **options}), setup)


def federation(method, task, rule="uniform", **options):
    engine = LocalEngine(ClientWorker(method, task))
    return Federation(method, build_aggregator(rule, {}), engine, [data.client for data in task.clients], **options)


def test_the_server_has_the_weighted_mean_of_the_clients_log_probabilities(black_setup, text_task):
    """Round 1, by hand: own demonstrations before each question; w = (right + 1) / (n + 2) on validation examples."""
    method = make(black_setup)
    state, _ = federation(method, text_task).run_round(federation(method, text_task).start())
    total, weights = torch.zeros(5, 2, dtype=torch.float64), 0.0
    for data in text_task.clients:
        prompt = Candidate(method.prompt(method.demonstrations(data)))
        items = [TextItem(text) for text in QUESTIONS]
        logs = black_setup.oracle.score([prompt], items, black_setup.classes)[0].log_softmax(-1).double()
        scores = black_setup.oracle.score([prompt], data.val.items, black_setup.classes)[0]
        weight = ((scores.argmax(1) == data.val.labels).sum().item() + 1) / (len(data.val) + 2)
        total += weight * logs.clamp(min=FLOOR)
        weights += weight
    consensus = state.shared[ANSWERS].double() / state.shared[WEIGHT].double()
    torch.testing.assert_close(consensus, total / weights, atol=1e-5, rtol=0)


def test_a_question_is_never_answered_with_its_own_answer_in_sight(black_setup, backend, text_task):
    method, data = make(black_setup, own=1, shown=5), text_task.clients[0]
    shared = PromptState({**method.init_shared(), ANSWERS: torch.randn(5, 2), WEIGHT: torch.ones(1)})
    backend.asked.clear()
    method.train(Broadcast(2, shared), data, method.init_personal(0))
    asked = [query for query in backend.asked if query.item.text in QUESTIONS]
    assert {query.item.text for query in asked} == set(QUESTIONS)
    for query in asked:
        _, examples = examples_in(backend.form, query.prompt.text, black_setup.classes)
        texts = [example.text for example in examples]
        assert query.item.text not in texts
        assert any(text in QUESTIONS for text in texts)
        assert any(text not in QUESTIONS for text in texts), "its own demonstration"


def test_the_prompt_shows_the_surest_answers_in_turn_of_the_labels(black_setup):
    method = make(black_setup, shown=3)
    answers = torch.tensor([[0.0, 3.0], [5.0, 0.0], [0.0, 9.0], [1.0, 0.0], [0.0, 4.0]])
    shared = PromptState({**method.init_shared(), ANSWERS: answers, WEIGHT: torch.ones(1)})
    assert [(one.text, one.name) for one in method.answered(shared)] == [
        ("lava c", "hot"),
        ("ice b", "cold"),
        ("mild e", "hot"),
    ]
    assert method.answered(method.init_shared()) == [], "nobody has answered yet"
    assert method.candidate(method.init_shared(), NO_PROMPT).text == ""


@pytest.mark.parametrize(("answer", "row"), [("probabilities", [0.8, 0.2]), ("votes", [1.0, 0.0])])
def test_other_answers(black_setup, answer, row):
    scores = torch.tensor([[math.log(0.8), math.log(0.2)], [math.nan, math.nan]])
    method = make(black_setup, answer=answer)
    torch.testing.assert_close(method.answers(scores)[0], torch.tensor(row))
    if answer == "probabilities":
        torch.testing.assert_close(method.answers(scores)[1], torch.tensor([0.5, 0.5]), msg="no answer says nothing")


def test_a_uniform_prior_takes_the_models_bias_off(black_setup):
    """A model that says cold to all alike, twice as sure of one of them."""
    logs = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()
    assert make(black_setup, answer="votes").answers(logs).argmax(1).tolist() == [0, 0]
    assert make(black_setup, answer="votes", prior="uniform").answers(logs).argmax(1).tolist() == [0, 1]


def test_demonstrations_are_balanced_and_stay(black_setup, text_task):
    method, loop = make(black_setup), federation(make(black_setup), text_task)
    state, replies = loop.run_round(loop.start())
    for data, reply in zip(text_task.clients, replies, strict=True):
        own = method.demonstrations(data)
        assert sorted(example.name for example in own) == ["cold", "hot"]
        assert own == method.demonstrations(data), "the same in each round"
        sent = reply.update.shared
        assert {name: tuple(sent[name].shape) for name in sent} == {ANSWERS: (5, 2), WEIGHT: (1,)}
        assert all(example.text in text_of(state.personal[data.client][OWN]) for example in own)
        deployed = method.candidate(state.shared, state.personal[data.client]).text
        newcomer = method.candidate(state.shared, NO_PROMPT).text
        assert all(example.text in deployed and example.text not in newcomer for example in own)
        assert deployed.startswith(newcomer)


def test_a_run_that_goes_on_from_its_bytes_ends_with_the_same_bits(black_setup, text_task):
    whole = federation(make(black_setup), text_task)
    state, _ = whole.run_round(whole.start())
    stored = replace(
        state,
        shared=PromptState.from_bytes(state.shared.to_bytes()),
        personal={k: PromptState.from_bytes(value.to_bytes()) for k, value in state.personal.items()},
    )
    (one, _), (other, _) = whole.run_round(state), federation(make(black_setup), text_task).run_round(stored)
    assert one.shared == other.shared
    assert one.personal == other.personal


def test_a_round_takes_one_query_a_question_and_validation_example(black_setup, text_task):
    method = make(black_setup)
    _, replies = federation(method, text_task).run_round(federation(method, text_task).start())
    needed = method.step_queries(text_task.clients[0])
    assert needed == len(QUESTIONS) + len(text_task.clients[0].val)
    assert [reply.usage.oracle_queries for reply in replies] == [needed] * 3


def test_other_questions_at_the_server_are_refused(black_setup, text_task):
    method, other = make(black_setup), make(black_setup, questions=QUESTIONS[:4])
    with pytest.raises(TrainingError, match="public questions are not those"):
        method.train(Broadcast(1, other.init_shared()), text_task.clients[0], NO_PROMPT)
    assert method.init_shared()[TAG].tolist() != other.init_shared()[TAG].tolist()


def test_classes_without_bundled_questions_need_a_file(black_setup):
    with pytest.raises(ConfigError, match=r"method\.questions=file:PATH"):
        FedICL(FedICLConfig(), black_setup)


@pytest.mark.parametrize("kept", ["", "{}", "[[1, 2]]", '[["a"]]', '[["a", "unknown"]]', "[3]"])
def test_what_is_no_demonstration_in_a_personal_state_is_left_out(black_setup, kept):
    personal = PromptState({OWN: text_tensor(kept)})
    assert make(black_setup).candidate(make(black_setup).init_shared(), personal).text == ""


def test_in_turn():
    assert in_turn([4, 3, 2, 1, 0], [0, 0, 1, 1, 1], 4) == [4, 1, 3, 0]
    assert in_turn([], [], 3) == []
