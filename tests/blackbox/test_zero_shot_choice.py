"""The zero-shot prompt is kept where validation says so, by everything that uses what was learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.evaluation import evaluate
from promptfed.export.bundle import candidate_of, is_complete
from promptfed.federation import Federation
from promptfed.kept_text import MARK, kept_of, kept_text, kept_words, unmarked
from promptfed.local_only_wrapper import LocalOnlyWrapper
from promptfed.prompt_state import PromptState
from promptfed.types import ClientPrompt
from promptfed.zero_shot_choice import choose

OPTIONS = {"dim": 4, "n_tokens": 2}


@pytest.fixture
def reached(black_setup, text_task):
    """``reached("fedbpt", z)``: a federation whose search ended at the vector ``z``, and its state."""

    def make(name="fedbpt", shift=0.0, alone=False, **options):
        method = build_method(name, {**OPTIONS, **options}, black_setup)
        if alone:
            method = LocalOnlyWrapper(method, Mean(Mean.Config()))
        federation = Federation(
            method,
            Mean(Mean.Config()),
            LocalEngine(ClientWorker(method, text_task)),
            [data.client for data in text_task.clients],
        )
        state = federation.start()
        matrix = (method.inner if alone else method).projection.matrix
        z = torch.linalg.lstsq(matrix, torch.full((len(matrix), 1), shift)).solution[:, 0]
        for key in ("mean", "z"):
            if key in state.shared:
                state = replace(state, shared=PromptState({**state.shared, key: z}))
        return federation, state

    return make


def figures(federation, state, task):
    return evaluate(federation.method, federation.prompts(state), task).figures


def test_a_prompt_that_is_worse_on_validation_data_is_replaced_by_the_hand_written_one(reached, text_task):
    federation, state = reached(shift=-60.0)  # everything is cold
    after, choice = choose(federation, state, text_task)
    assert choice.trained == pytest.approx(0.5)
    assert choice.zero_shot > choice.trained
    assert choice.clients == 3
    assert choice.bytes_up == 3 * (1 + 3) * 2 * 4  # clients, prompts, counts, bytes
    assert kept_text(after.shared) == "fire"  # as zero-shot chooses: the texts alone say too cold
    assert kept_words(after) == 'kept zero-shot: "fire"'
    assert figures(federation, state, text_task).base == 0.5
    zero_shot = build_method("zero_shot", {}, federation.method.setup)
    scores = zero_shot.init_shared()
    for data in text_task.clients:
        scores = scores + zero_shot.train(None or _broadcast(scores), data, PromptState())[0].shared
    assert zero_shot.template(scores) == "fire"
    prompt = federation.prompt(after, 0)
    expected = federation.method.setup.oracle.score(
        [candidate_of(zero_shot, ClientPrompt(scores))], text_task.base_test.items, text_task.base_classes
    )[0]
    assert torch.equal(federation.method.client_logits(prompt, text_task.base_classes, text_task.base_test), expected)


def _broadcast(shared):
    from promptfed.types import Broadcast

    return Broadcast(1, shared)


def test_what_is_as_good_or_better_stays(reached, text_task):
    federation, state = reached(shift=0.8)
    after, choice = choose(federation, state, text_task)
    assert choice.trained >= choice.zero_shot
    assert after is state
    assert kept_words(after) == ""
    assert choice.clients == 0


def test_the_option_turns_it_off_and_test_data_has_no_say(reached, text_task, backend):
    federation, state = reached(shift=-60.0, keep_zero_shot=False)
    backend.asked.clear()
    assert choose(federation, state, text_task) == (state, None)
    assert not backend.asked
    federation, state = reached(shift=-60.0)
    choose(federation, state, text_task)
    held = {item.content_id() for data in text_task.clients for item in data.val.items}
    assert {query.item.content_id() for query in backend.asked} <= held


def test_without_validation_data_nothing_is_chosen(reached, text_task):
    federation, state = reached(shift=-60.0)
    nothing = replace(text_task.clients[0].val, items=(), labels=torch.zeros(0, dtype=torch.int64))
    bare = replace(text_task, clients=tuple(replace(data, val=nothing) for data in text_task.clients))
    assert choose(federation, state, bare) == (state, None)


@pytest.mark.parametrize(("name", "alone"), [("bbt", False), ("fedbpt", True), ("fedavg_bbt", True)])
def test_who_shares_nothing_chooses_alone(reached, text_task, text_split, name, alone):
    federation, state = reached(name, alone=alone)
    clients = list(text_task.clients)
    clients[1] = replace(clients[1], val=text_split("hot: the ice x", "hot: mild", "cold: snow ice ice"))
    clients[2] = replace(clients[2], val=text_split("cold: mild ice", "hot: lava fire"))
    task = replace(text_task, clients=tuple(clients))
    after, choice = choose(federation, state, task)
    assert not len(after.shared)
    kept = {client for client, own in after.personal.items() if MARK in own}
    assert choice.clients == len(kept)
    assert choice.bytes_up == 0
    for data in task.clients:
        prompt = federation.prompt(after, data.client)
        scores = federation.method.client_logits(prompt, task.base_classes, data.val)
        before = federation.method.client_logits(federation.prompt(state, data.client), task.base_classes, data.val)
        right, was = ((s.argmax(-1) == data.val.labels).sum() for s in (scores, before))
        assert right > was if data.client in kept else torch.equal(scores, before)
    assert unmarked(after) == state or not kept


def test_the_mark_goes_with_every_broadcast_and_comes_off_before_training(reached, text_task):
    federation, state = reached("fedavg_bbt", shift=-60.0)
    after, _ = choose(federation, state, text_task)
    for client in (0, 1, 2, None):
        assert kept_text(federation.broadcast(after, client)) == "fire"
    plain = unmarked(after)
    assert plain.shared == state.shared
    again, replies = federation.run_round(plain)
    assert not any(reply.failure for reply in replies)
    assert MARK not in again.shared


def test_what_is_exported_is_the_kept_prompt(reached, text_task):
    federation, state = reached(shift=-60.0)
    after, _ = choose(federation, state, text_task)
    prompt = federation.prompt(after, 0)
    found = candidate_of(federation.method, prompt)
    assert (found.text, found.soft) == ("fire", None)
    assert is_complete(federation.method, prompt)
    assert candidate_of(federation.method, federation.prompt(state, 0)).soft is not None
    saved = PromptState.from_bytes(prompt.shared.to_bytes())
    assert kept_of(ClientPrompt(saved)) == "fire"


@pytest.mark.parametrize("text", ["", "Sort: \u6b63 [b]", "x" * 3000])
def test_any_text_can_be_kept(text):
    from promptfed.kept_text import marked

    state = PromptState.from_bytes(marked(PromptState({"z": torch.zeros(2)}), text).to_bytes())
    assert kept_text(state) == text
