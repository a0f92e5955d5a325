from __future__ import annotations

import torch

from promptfed.aggregators.mean import Mean
from promptfed.blackbox.methods.pfl_gradfree import PFLGradFree, PFLGradFreeConfig
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Update


def make(setup, **options):
    own = {"queries": 96, "batch_size": 4, "n_tokens": 2, "n_personal": 2, "candidates": 40, "embedder": "hashing"}
    return PFLGradFree(PFLGradFreeConfig(**{**own, **options}), setup)


def update(client, tokens, samples=1):
    return Update(client, PromptState({"tokens": torch.tensor(tokens, dtype=torch.int16)}), samples, 0.0, 0.0)


def merged(method, *updates):
    server = method.server_side(Mean(Mean.Config()))
    return server.apply(method.init_shared(), updates, NO_PROMPT)[0]


def test_indices_travel_and_personal_ones_stay(black_setup, text_task):
    method = make(black_setup)
    shared = method.init_shared()
    assert {name: (t.dtype, tuple(t.shape)) for name, t in shared.items()} == {
        "codes": (torch.int16, (2, 3)), "vocabulary": (torch.uint8, (8,)),
    }  # fmt: skip
    sent, kept = method.train(Broadcast(1, shared), text_task.clients[0], method.init_personal(0))
    assert {name: (t.dtype, tuple(t.shape)) for name, t in sent.shared.items()} == {"tokens": (torch.int16, (2,))}
    assert {name: tuple(t.shape) for name, t in kept.items()} == {"tokens": (2,)}


def test_a_newcomer_has_the_shared_tokens_alone(black_setup):
    method = make(black_setup)
    shared = merged(method, update(0, (7, 8)))
    words = method.vocabulary.tokens
    assert method.candidate(shared, NO_PROMPT).text == f"{words[7]} {words[8]}"
    own = PromptState({"tokens": torch.tensor([0, 9], dtype=torch.int16)})
    assert method.candidate(shared, own).text == f"{words[7]} {words[8]} {words[9]}"


def test_clients_that_agree_get_their_token_and_no_more(black_setup):
    method = make(black_setup)
    found = merged(method, update(0, (5, 0), 3), update(1, (5, 6), 2))["codes"].tolist()
    assert found[0] == [5, -1, -1]
    assert found[1] == [0, -1, -1]  # more than half of the samples say: nothing


def test_a_client_that_disagrees_shows_in_the_code_not_in_the_token(black_setup):
    method = make(black_setup)
    [code, _] = merged(method, update(0, (5, 0), 3), update(1, (9, 0), 2))["codes"].tolist()
    assert code[:2] == [5, 9]


def test_updates_that_are_no_tokens_are_left_out(black_setup):
    method = make(black_setup)
    found = merged(method, update(0, (5, 6)), update(1, (99, -2), 50))["codes"].tolist()
    assert [code[0] for code in found] == [5, 6]
    assert merged(method, update(0, (99, 99))) == method.init_shared()


def test_nothing_is_kept_that_does_worse_on_validation(black_setup, text_task, text_split):
    from dataclasses import replace

    method = make(black_setup)
    data = replace(text_task.clients[0], val=text_split("cold: mild", "cold: the"))
    sent, kept = method.train(Broadcast(1, method.init_shared()), data, method.init_personal(0))
    text = method.candidate(PromptState({"codes": sent.shared["tokens"][:, None]}), kept).text
    assert method.oracle.score([method.prompt(())], data.val.items, ["cold"]).sum() <= (
        method.oracle.score(
            [method.prompt(sent.shared["tokens"].tolist() + kept["tokens"].tolist())], data.val.items, ["cold"]
        ).sum()
    ), text
