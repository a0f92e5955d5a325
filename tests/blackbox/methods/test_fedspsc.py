"""Votes by hand, worked examples, and what travels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.blackbox.methods.fedspsc import FedSPSC, FedSPSCConfig, vote, vote_weights
from promptfed.blackbox.methods.fedspsc.demonstrations import DISCLAIMER, unpacked
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import OracleAnswer, ScoreQuery, TextQuery
from promptfed.blackbox.text.tensors import text_of
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES, QuestionItem
from promptfed.federation import Federation
from promptfed.local_only_wrapper import LocalOnlyWrapper
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, ClientData, Split


def make(setup, **options):
    return FedSPSC(FedSPSCConfig(**{"queries": 40, "phrasings": 3, **options}), setup)


def run(method, task, dropout=0.0, clients=(0, 1, 2)):
    engine = LocalEngine(ClientWorker(method, task, dropout))
    loop = Federation(method, Mean(Mean.Config()), engine, clients)
    return loop.run_round(loop.start())


def questions(*pairs):
    items = tuple(QuestionItem(text, "", f"#### {answer}") for text, answer in pairs)
    return Split(items, torch.ones(len(items), dtype=torch.int64))


@pytest.fixture
def sums(text_task):
    """Three clients with two sums each, and two sums for the test."""
    clients = []
    for k in range(3):
        train = questions((f"{k} + 1", k + 1), (f"{k} + 2", k + 2))
        clients.append(ClientData(k, f"client {k}", (0, 1), train, train, questions(("4 + 4", 8))))
    return replace(
        text_task, base_classes=ANSWER_CLASSES, clients=tuple(clients), base_test=questions(("5 + 5", 10), ("1 + 1", 2))
    )


@pytest.fixture
def sum_setup(black_setup):
    return black_setup.agreeing(classes=ANSWER_CLASSES)


def adds_up(query):
    """Right without a prompt and with "fire", one too many with "ice"; nothing for sums with 9."""
    *prompt, one, _, two = query.text.split()
    if "9" in (one, two):
        return OracleAnswer(text="")
    return OracleAnswer(text=f" That is {one} + {two} = {int(one) + int(two) + ('ice' in prompt)}")


def test_a_vote_by_hand():
    assert vote(["a", "b", "a"], [1, 1, 1]) == ("a", 2 / 3)
    assert vote(["a", "b", ""], [1, 1.1, 9]) == ("b", 1 / 3)
    assert vote(["b", "a"], [1, 1]) == ("b", 0.5)
    assert vote(["", ""], [1, 1]) == ("", 0.0)


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_accuracy_decides_between_equals_only(count):
    weights = vote_weights(torch.linspace(0, 1, count))
    assert bool((weights.diff() > 0).all())
    for votes in range(1, count):  # fewer wordings never beat more, however good they are
        assert weights[count - votes :].sum() < weights[: votes + 1].sum()


def test_accuracies_beyond_all_accuracies_count_as_the_best_or_worst():
    assert torch.equal(vote_weights(torch.tensor([-7.0, 0.5, 9.0])), vote_weights(torch.tensor([0.0, 0.5, 1.0])))


def test_labels_are_voted_on(black_setup, text_task):
    method = make(black_setup)
    shared = PromptState({**method.init_shared(), "right": torch.tensor([0.5, 1.0, 0.0])})
    # Heat of the texts: 0, -0.5, -1, -2; the wordings add 0, 1, -1. A heat of 0 is a tie of scores: cold.
    found = method.logits(shared, NO_PROMPT, ("cold", "hot"), text_task.base_test)
    weights = vote_weights(shared["right"])
    hot = (weights[1] / weights.sum()).item()
    assert found[:, 1].tolist() == pytest.approx([hot, hot, 0, 0])
    assert found.sum(1).tolist() == pytest.approx([1, 1, 1, 1])


def test_an_even_vote_goes_to_the_better_wording(black_setup, text_task):
    method = make(black_setup, phrasings=2)
    for right, label in (([0.2, 0.9], 1), ([0.9, 0.2], 0)):
        shared = PromptState({**method.init_shared(), "right": torch.tensor(right)})
        assert method.logits(shared, NO_PROMPT, ("cold", "hot"), text_task.base_test)[1].argmax() == label


def test_the_round_measures_each_wording(black_setup, text_task):
    state, replies = run(make(black_setup), text_task)
    # "" and "ice" call everything cold but for a lava without ice; "fire" is wrong about nothing that is hot.
    assert state.shared["right"].tolist() == pytest.approx([0.5, 1.0, 0.5])
    assert set(replies[0].update.shared) == {"right"}
    assert make(black_setup).candidate(state.shared, NO_PROMPT).text == "fire"


@pytest.mark.parametrize("queries", [3, 7, 12, 40])
@pytest.mark.parametrize("options", [{}, {"variant": "dp", "questions": 9}, {"rephrase": "model"}])
def test_no_client_asks_more_than_its_allowance(black_setup, text_task, queries, options):
    if options.get("rephrase") and queries < 5:
        with pytest.raises(ConfigError, match="takes 5"):
            make(black_setup, queries=queries, **options)
        return
    run(make(black_setup, queries=queries, **options), text_task)
    cost = 5 if options.get("rephrase") else 3
    asked = [row["oracle_queries"] for row in black_setup.oracle.ledger.rows() if row["client"] >= 0]
    assert asked == [cost * min(4, queries // cost)] * 3


def test_free_answers_are_voted_on(sum_setup, sums, backend):
    backend.other = adds_up
    method = make(sum_setup)
    state, _ = run(method, sums)
    assert state.shared["right"].tolist() == [1, 1, 0]
    found = method.logits(state.shared, NO_PROMPT, ANSWER_CLASSES, sums.base_test)
    assert found.tolist() == [[0, 1], [0, 1]]
    nothing = questions(("9 + 1", 10), ("2 + 2", 5))
    assert method.logits(state.shared, NO_PROMPT, ANSWER_CLASSES, nothing).tolist() == [[1, 0], [1, 0]]


def test_several_answers_to_each_wording(sum_setup, sums, backend):
    asked = []

    def draws(query):
        asked.append((query.temperature, query.sample))
        return OracleAnswer(text="10" if query.sample else "0")

    backend.other = draws
    method = make(sum_setup, phrasings=1, samples=3)
    shared = method.init_shared()
    assert method.logits(shared, NO_PROMPT, ANSWER_CLASSES, questions(("5 + 5", 10))).tolist() == [[0, 1]]
    assert asked == [(0.7, 0), (0.7, 1), (0.7, 2)]


def test_the_model_s_own_rewordings_are_asked_about(black_setup, text_task, backend):
    backend.other = lambda query: OracleAnswer(text=" lava lava lava" if "simpler" in query.text else " ?! ")
    method = make(black_setup, rephrase="model")
    shared = method.init_shared()
    method.logits(shared, NO_PROMPT, ("cold", "hot"), text_task.base_test)
    scored = list(dict.fromkeys(query.item.text for query in backend.asked if isinstance(query, ScoreQuery)))
    # A useless rewording leaves the text as it is.
    assert set(scored) == {*(item.text for item in text_task.base_test.items), "lava lava lava"}


def test_worked_examples_are_those_that_most_agree_with(sum_setup, sums, backend):
    backend.other = adds_up
    method = make(sum_setup, variant="dp", demonstrations=2)
    state, replies = run(method, sums)
    found = unpacked(text_of(replies[1].update.shared["found"]))
    assert {(one.question, one.answer, round(one.share, 2)) for one in found} == {
        ("1 + 1", "That is 1 + 1 = 2", 0.67),
        ("1 + 2", "That is 1 + 2 = 3", 0.67),
    }
    # "0 + 1" and "0 + 2" stand first in the alphabet.
    wanted = f"{DISCLAIMER}\n\n0 + 1 That is 0 + 1 = 1\n\n0 + 2 That is 0 + 2 = 2\n"
    assert method.candidate(state.shared, NO_PROMPT).text == wanted
    backend.asked.clear()
    backend.other = lambda query: backend.asked.append(query) or OracleAnswer(text="10")
    assert method.logits(state.shared, NO_PROMPT, ANSWER_CLASSES, sums.base_test)[:, 1].tolist() == [1, 0]
    assert all(isinstance(q, TextQuery) and q.text.startswith(DISCLAIMER) for q in backend.asked)


def test_only_right_ones(sum_setup, sums, backend):
    backend.other = lambda query: OracleAnswer(text="2")
    _, replies = run(make(sum_setup, variant="dp", only_right=True), sums)
    sent = [unpacked(text_of(reply.update.shared["found"])) for reply in replies]
    assert [[one.question for one in some] for some in sent] == [["0 + 2"], ["1 + 1"], []]


def test_labels_are_worked_examples_too(black_setup, text_task):
    method = make(black_setup, variant="dp", questions=4, demonstrations=2)
    state, _ = run(method, text_task)
    prompt = method.candidate(state.shared, NO_PROMPT).text
    assert prompt.startswith(DISCLAIMER)
    assert prompt.count("\n\n") == 2
    assert prompt.rstrip().endswith(("cold", "hot"))


@pytest.mark.parametrize("variant", ["sp", "dp"])
def test_reruns_dropouts_one_client_and_alone(black_setup, text_task, backend, variant):
    method = make(black_setup, variant=variant)
    one, _ = run(method, text_task)
    two, _ = run(make(replace(black_setup, model=Oracle(backend)), variant=variant), text_task)
    assert one.shared == two.shared
    run(method, text_task, clients=(2,))
    run(method, text_task, dropout=0.9)
    alone = LocalOnlyWrapper(method, Mean(Mean.Config()))
    assert alone.rounds == 1
    state, _ = run(alone, text_task)
    assert alone.logits(NO_PROMPT, state.personal[0], ("cold", "hot"), text_task.base_test).shape == (4, 2)


def test_silence_is_no_crash(sum_setup, sums, backend):
    backend.other = lambda query: OracleAnswer(text="")
    for variant in ("sp", "dp"):
        method = make(sum_setup, variant=variant)
        state, replies = run(method, sums)
        assert not [reply.failure for reply in replies if reply.failure]
        found = method.logits(state.shared, NO_PROMPT, ANSWER_CLASSES, sums.base_test)
        assert found.tolist() == [[1, 0], [1, 0]]


def test_wordings_are_the_task_s_own_then_bundled_ones(black_setup):
    assert make(black_setup).phrasings == ("", "fire", "ice")
    assert make(black_setup, phrasings=5).phrasings[3:] == ("In other words:", "Somebody asks:")
