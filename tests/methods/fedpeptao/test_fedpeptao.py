"""FedPepTAO: which layers are shared, what stays with the client, and what the whole prefix is."""

from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.krum import Krum
from promptfed.aggregators.mean import Mean
from promptfed.errors import ConfigError
from promptfed.inserts.prefix import PREFIX
from promptfed.method import METHODS
from promptfed.methods.fedpeptao.accelerated import AcceleratedMean
from promptfed.methods.fedpeptao.layer_choice import SCORES, LayerChoice
from promptfed.methods.fedpeptao.partial_prefix import LAYERS, REST
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Update

from ...tiny_language_models import CLASSES, client, setup, split

WIDTH = 2 * 16
"""Columns of a layer of the tiny llama."""


def make(name="llama", **options):
    kind = METHODS["fedpeptao"]
    return kind(kind.Config(**{"n_tokens": 3, "lr": 0.05, **options}), setup(name, domains=("a", "b")))


def run(method, rounds):
    """Rounds of two clients; returns the shared prompt, the clients' own and the updates of each round."""
    rule, shared = method.server_side(Mean(Mean.Config())), method.init_shared()
    server, personal, sent = rule.init(shared), {0: NO_PROMPT, 1: NO_PROMPT}, []
    for round in range(1, rounds + 1):
        updates = []
        for number, rows in ((0, [0, 1]), (1, [2, 3])):
            update, personal[number] = method.train(Broadcast(round, shared), client(number, rows), personal[number])
            expected = method.uploads(number, shared)
            assert {name: tuple(tensor.shape) for name, tensor in update.shared.items()} == dict(expected)
            updates.append(update)
        shared, server = rule.apply(shared, updates, server)
        sent.append(updates)
    return shared, personal, sent


@pytest.mark.parametrize("server", ["mean", "accelerated"])
def test_layers_are_scored_once_and_the_rest_never_leaves_the_client(server):
    method = make(server=server)
    shared, personal, (first, second) = run(method, 2)
    assert first[0].shared[PREFIX].shape == (3, 2 * WIDTH)
    assert second[0].shared[PREFIX].shape == (3, WIDTH) == personal[0][REST].shape
    assert SCORES in first[0].shared
    assert set(second[0].shared) == {PREFIX}
    assert shared[LAYERS].tolist() == [0]  # of two layers the last has no score
    assert not torch.equal(personal[0][REST], personal[1][REST])
    assert torch.isfinite(shared[PREFIX]).all()
    mean = (second[0].shared[PREFIX] + second[1].shared[PREFIX]) / 2
    assert torch.allclose(shared[PREFIX], mean, atol=1e-6) == (server == "mean")


def test_the_server_cuts_all_to_the_layers_with_the_highest_mean_score():
    rule = LayerChoice(Mean(Mean.Config()), 2, lambda layers: torch.tensor(list(layers)))  # a column a layer
    prompts = [torch.arange(4.0)[None], 10 + torch.arange(4.0)[None]]
    scores = [torch.tensor([5.0, 1.0, 2.0]), torch.tensor([0.0, 6.0, 2.0])]  # means by samples: 3.75, 2.25, 2
    updates = [
        Update(k, PromptState({PREFIX: prompt, SCORES: score}), samples, 1.0, 1.0)
        for k, (prompt, score, samples) in enumerate(zip(prompts, scores, (3, 1), strict=True))
    ]
    shared, _ = rule.apply(PromptState({PREFIX: torch.zeros(1, 4)}), updates, NO_PROMPT)
    assert shared[LAYERS].tolist() == [0, 1]
    assert shared[PREFIX].tolist() == [[2.5, 3.5]]


def test_a_whole_prefix_is_put_together_from_both_parts():
    method = make(layers=(1,))
    shared, start = method.init_shared(), method.first_values[PREFIX]
    assert torch.equal(shared[PREFIX], start[:, WIDTH:])
    own = PromptState({REST: torch.ones(3, WIDTH)})
    whole = method.kind.peft_tensors(method.values(shared, own))
    assert set(whole) == {PREFIX}
    assert torch.equal(whole[PREFIX], torch.cat([torch.ones(3, WIDTH), start[:, WIDTH:]], 1))
    newcomer = method.kind.peft_tensors(method.values(shared, NO_PROMPT))
    assert torch.equal(newcomer[PREFIX], start)
    plain = METHODS["fedprefix"]
    as_plain = plain(plain.Config(n_tokens=3), setup("llama"))
    torch.testing.assert_close(
        method.logits(shared, own, CLASSES, split()),
        as_plain.logits(PromptState(whole), NO_PROMPT, CLASSES, split()),
        atol=1e-6,
        rtol=1e-6,
    )
    half = method.blend(shared, own, 0.5)
    assert half is not None
    torch.testing.assert_close(half[REST], (start[:, :WIDTH] + 1) / 2)


def test_frozen_layers_stay_as_they_start_and_all_layers_are_federated_prefix_tuning():
    frozen = make(layers=(1,), rest="frozen")
    shared, personal, _ = run(frozen, 1)
    assert personal == {0: NO_PROMPT, 1: NO_PROMPT}
    whole = frozen.kind.peft_tensors(frozen.values(shared, NO_PROMPT))[PREFIX]
    assert torch.equal(whole[:, :WIDTH], frozen.first_values[PREFIX][:, :WIDTH])
    assert not torch.equal(whole[:, WIDTH:], frozen.first_values[PREFIX][:, WIDTH:])
    every = make(layers="all")
    plain = METHODS["fedprefix"](METHODS["fedprefix"].Config(n_tokens=3, lr=0.05), setup("llama"))
    update, _ = plain.train(Broadcast(1, plain.init_shared()), client(), NO_PROMPT)
    ours, _ = every.train(Broadcast(1, every.init_shared()), client(), NO_PROMPT)
    torch.testing.assert_close(ours.shared[PREFIX], update.shared[PREFIX], atol=1e-6, rtol=1e-6)


def test_bad_options_and_the_server_s_count_of_steps():
    with pytest.raises(ConfigError, match=r"'layers' is \[2\], and 'lm:llama' has layers 0 to 1"):
        make(layers=(2,))
    with pytest.raises(ConfigError, match="'server' is 'accelerated'"):
        make(server="accelerated").server_side(Krum(Krum.Config()))
    assert METHODS["fedpeptao"].Config(layers="3,1").layers == (3, 1)
    inner = make(server="accelerated", batch_size=4, local_epochs=3).server_side(Mean(Mean.Config())).inner
    assert isinstance(inner, AcceleratedMean)
    assert (inner.steps(9), inner.clients) == (9, 2)
