"""FedTextGrad: rewritings that help are taken, others not; nothing private leaves; the allowance holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from promptfed.aggregators.mean import Mean
from promptfed.blackbox.methods.fedtextgrad import FedTextGrad, FedTextGradConfig, private_texts
from promptfed.blackbox.methods.fedtextgrad.merging import pool_of
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import OracleAnswer, TextQuery
from promptfed.blackbox.text.tensors import text_of
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.local_only_wrapper import LocalOnlyWrapper
from promptfed.types import NO_PROMPT

MERGES = ("rank", "concatenate", "summary", "uid_summary")
CANARY = "the purple heron sings at midnight behind our old garage"
HELPFUL = "Think of fire and lava the mild way."


def make(setup, **options):
    return FedTextGrad(FedTextGradConfig(**{"queries": 40, "batch_size": 4, "most_characters": 80, **options}), setup)


def federation(method, task, dropout=0.0, clients=(0, 1, 2)):
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, task, dropout)), clients)


def run(method, task, **options):
    """The states after each round, and all replies."""
    loop = federation(method, task, **options)
    states, replies = [loop.start()], []
    for _ in range(method.rounds):
        state, found = loop.run_round(states[-1])
        states.append(state)
        replies += found
    return states, replies


def says(backend, text):
    """The toy oracle writes ``text`` whatever it is asked to write (a function makes it of what it is asked)."""
    backend.other = lambda query: OracleAnswer(text=text(query.text) if callable(text) else text)


@pytest.mark.parametrize("merge", MERGES)
def test_a_rewriting_that_helps_is_found(black_setup, text_task, backend, merge):
    says(backend, HELPFUL)
    method = make(black_setup, merge=merge, start="the mild")
    states, _ = run(method, text_task)
    assert text_of(states[-1].shared["text"]) == HELPFUL
    found = method.logits(states[-1].shared, NO_PROMPT, ("cold", "hot"), text_task.base_test)
    assert (found.argmax(-1) == text_task.base_test.labels).double().mean() > 0.7


@pytest.mark.parametrize("merge", MERGES)
def test_a_rewriting_that_harms_is_not_sent(black_setup, text_task, backend, merge):
    says(backend, lambda asked: "ice ice ice ice" if "Improve" in asked else HELPFUL)
    states, replies = run(make(black_setup, merge=merge, start="the mild"), text_task)
    assert {text_of(reply.update.shared["text"]) for reply in replies} == {"the mild"}
    if not merge.endswith("summary"):
        assert text_of(states[-1].shared["text"]) == "the mild"


def test_with_ranks_the_first_pool_are_the_task_s_prompts_and_the_last_round_only_ranks(
    black_setup, text_task, backend
):
    says(backend, "")
    method = make(black_setup)
    states, replies = run(method, text_task)
    assert pool_of(states[0].shared) == ["", "fire", "ice"]
    assert text_of(states[1].shared["text"]) == "fire"  # the texts are 0.7 too cold
    assert replies[0].update.shared["ranks"].tolist() == [2, 1, 3]
    backend.asked.clear()
    broadcast = federation(method, text_task)
    broadcast.run_round(states[2])
    assert not [query for query in backend.asked if isinstance(query, TextQuery)]
    assert make(black_setup.agreeing(rounds=1)).rounds == 2
    assert make(black_setup.agreeing(rounds=1), merge="summary").rounds == 1


@pytest.mark.parametrize("merge", MERGES)
def test_a_planted_canary_never_leaves(black_setup, text_task, text_split, backend, merge):
    clients = list(text_task.clients)
    planted = text_split(f"hot: {CANARY}", "hot: the mild a", "cold: ice ice d", "hot: my card 4929 1234")
    clients[1] = replace(clients[1], train=planted)
    task = replace(text_task, clients=tuple(clients))
    half = CANARY.split()

    def leak(asked):
        if "Improve" not in asked:
            return "It should have said: " + CANARY
        return f"Think fire lava now! {CANARY}. {' '.join(half[:4])}. {' '.join(half[4:])}. Mind 4929 1234. Be hot."

    says(backend, leak)
    method = make(black_setup, merge=merge, start="mild", most_characters=400)
    # Only the client that holds the text asks anything: the others have no way to say it.
    _, replies = run(method, task, clients=(1,))
    assert any("fire" in text_of(r.update.shared["text"]).lower() for r in replies)
    for reply in replies:
        sent = reply.update.shared.to_bytes().decode("latin1").lower()
        assert "heron sings" not in sent
        assert "midnight behind" not in sent
        assert "4929" not in sent


def test_private_texts_are_all_that_a_client_holds(text_task):
    held = private_texts(text_task.clients[1])
    assert {"lava ice b1", "mild e1", "lava ice g1"} <= set(held)
    assert "lava ice b2" not in held


@pytest.mark.parametrize("merge", MERGES)
def test_what_is_sent_is_never_longer_than_the_cap(black_setup, text_task, backend, merge):
    filler = " ".join(f"w{k}" for k in range(900))
    says(backend, f"fire lava {filler}. And more! " * 2)
    states, replies = run(make(black_setup, merge=merge, most_characters=60, start="the mild"), text_task)
    texts = [reply.update.shared["text"] for reply in replies] + [state.shared["text"] for state in states]
    assert 20 < max(map(len, texts)) <= 60
    assert max(len(text.encode()) for state in states for text in pool_of(state.shared) or [""]) <= 60


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize(
    "junk", ["", " \n\n ", "\x00\x07", "?" * 3000, "12 34", "\ufffd\ufffd", "{{ prompt }}", "\ud83d"]
)
def test_junk_from_the_model_never_stops_a_run(black_setup, text_task, backend, merge, junk):
    says(backend, junk)
    states, replies = run(make(black_setup, merge=merge), text_task)
    assert not [reply.failure for reply in replies if reply.failure]
    assert states[-1].shared.is_finite()


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("queries", [4, 11, 23, 40])
def test_no_client_asks_more_than_its_allowance(black_setup, text_task, backend, merge, queries):
    says(backend, lambda asked: f"fire {len(asked)}")
    run(make(black_setup, merge=merge, queries=queries, steps=9), text_task)
    rows = black_setup.oracle.ledger.rows()
    asked = [row["oracle_queries"] for row in rows if row["client"] >= 0]
    assert max(asked, default=0) <= queries
    if queries == 40:
        assert max(asked) >= queries - 10
    server = [row["oracle_queries"] for row in rows if row["client"] < 0]
    assert all(n <= 1 for n in server)
    assert bool(server) <= merge.endswith("summary")


@pytest.mark.parametrize("merge", MERGES)
def test_reruns_are_identical(black_setup, text_task, backend, merge):
    says(backend, lambda asked: f"fire {len(asked) % 7} lava {sum(map(ord, asked)) % 5}")
    one, _ = run(make(black_setup, merge=merge), text_task)
    fresh = replace(black_setup, model=Oracle(backend))
    two, _ = run(make(fresh, merge=merge), text_task)
    assert [state.shared for state in one] == [state.shared for state in two]


def test_dropouts_one_client_and_alone(black_setup, text_task, backend):
    says(backend, HELPFUL)
    states, replies = run(make(black_setup.agreeing(rounds=6)), text_task, dropout=0.5)
    assert any(reply.failure for reply in replies)
    assert text_of(states[-1].shared["text"]) in (HELPFUL, "fire")
    states, _ = run(make(black_setup), text_task, clients=(2,))
    assert text_of(states[-1].shared["text"]) in (HELPFUL, "fire")
    alone = LocalOnlyWrapper(make(black_setup.agreeing(rounds=1)), Mean(Mean.Config()))
    assert alone.rounds == 2
    states, _ = run(alone, text_task)
    assert alone.logits(NO_PROMPT, states[-1].personal[0], ("cold", "hot"), text_task.base_test).shape == (4, 2)


def test_texts_beyond_the_allowance_are_neither_chosen_nor_condemned(black_setup, text_task, backend):
    says(backend, "")
    method = make(black_setup, queries=4, merge="rank")  # two queries for three texts
    _, replies = run(method, text_task)
    ranks = replies[0].update.shared["ranks"].tolist()
    assert sorted(ranks)[1] == 2
    assert sum(ranks) == 6
