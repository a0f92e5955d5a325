"""FedPCL: what is sent, what is not, and the loss by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast

from ..tiny_language_models import CLASSES, WIDTH, client, setup, split


def build(name="bert", **options):
    return build_method("fedpcl", {"min_count": 2, "local_epochs": 1, **options}, setup(name, domains=("a", "b")))


@pytest.fixture(scope="module")
def method():
    return build()


def features(method, data):
    rows = [method.model.writer.row(item).ids for item in data.train.items]
    return method.model.hidden(rows)


def test_prototypes_are_sent_side_by_side_and_no_weights(method):
    data, shared = [client(0), client(1, [0, 1, 2])], method.init_shared()
    results = [method.train(Broadcast(1, shared), d, NO_PROMPT) for d in data]
    updates = [update for update, _ in results]
    assert list(updates[0].shared) == ["counts/0", "prototypes/0"]
    merged, _ = Mean(Mean.Config()).apply(shared, updates, PromptState())
    for update in updates:
        assert all(torch.equal(merged[name], tensor) for name, tensor in update.shared.items())
    assert merged["counts/1"].tolist() == [0, 2], "one text of the first class is no prototype"
    assert not merged["prototypes/1"][0].any()
    z = F.normalize(features(method, data[0]) @ results[0][1]["projection"].T, dim=-1)
    torch.testing.assert_close(merged["prototypes/0"][1], z[[0, 2]].mean(0))


def test_one_client_at_an_infinite_temperature_has_log_classes_for_each_term():
    method = build(temperature=1e9)
    problem = method.problem(Broadcast(1, method.init_shared()), client(), NO_PROMPT)
    value, _ = problem.loss({"projection": method.start()}, [], torch.arange(4))
    assert value.item() == pytest.approx(2 * math.log(2))


def test_the_loss_with_two_clients_prototypes_is_the_papers(method):
    draw = torch.Generator().manual_seed(3)
    prototypes = torch.randn(2, 2, WIDTH, generator=draw)
    counts = torch.tensor([[3.0, 1.0], [5.0, 7.0]])
    shared = PromptState(
        {f"{n}/{k}": t[k] for n, t in (("prototypes", prototypes), ("counts", counts)) for k in (0, 1)}
    )
    projection = torch.randn(WIDTH, WIDTH, generator=draw)
    data = client()
    problem = method.problem(Broadcast(2, shared), data, PromptState({"projection": projection}))
    value, logits = problem.loss({"projection": projection}, [], torch.arange(4))
    z = F.normalize(features(method, data) @ projection.T, dim=-1)
    both = torch.stack(
        [(3 * prototypes[0, 0] + 5 * prototypes[1, 0]) / 8, (prototypes[0, 1] + 7 * prototypes[1, 1]) / 8]
    )
    cosines = [z @ F.normalize(p, dim=-1).T / 0.07 for p in (both, prototypes[0], prototypes[1])]
    terms = [F.cross_entropy(c, data.train.labels) for c in cosines]
    assert value.item() == pytest.approx((terms[0] + (terms[1] + terms[2]) / 2).item(), rel=1e-4)
    torch.testing.assert_close(logits, cosines[0])
    torch.testing.assert_close(
        method.logits(shared, PromptState({"projection": projection}), CLASSES, data.test), logits
    )


def test_a_class_without_a_prototype_has_its_description_and_reads_are_kept(method):
    shared, data = method.init_shared(), client()
    scores = method.logits(shared, NO_PROMPT, [*CLASSES, "news"], data.test)
    cosines = F.normalize(method.states.of(data.test.items), dim=-1) @ method.model.class_means([*CLASSES, "news"]).T
    torch.testing.assert_close(scores, cosines / 0.07)
    before = method.model.usage()
    method.states.of(data.test.items)
    assert method.model.usage() == before
    causal = build("llama", dim=5)
    assert causal.start().shape == (5, WIDTH)
    torch.testing.assert_close(causal.start() @ causal.start().T, torch.eye(5), atol=1e-5, rtol=0)
    update, personal = causal.train(Broadcast(1, causal.init_shared()), data, NO_PROMPT)
    scores = causal.logits(update.shared, personal, [*CLASSES, "news"], split())
    assert torch.allclose(scores[:, 2], torch.tensor(-1 / 0.07))


def test_too_few_examples_are_said_at_the_start(method):
    with pytest.raises(ConfigError, match=r"no client has 2 training examples.*min_count=1"):
        method.check_feasible([client(0, [0, 1])])
    method.check_feasible([client(0, [0, 1]), client(1)])
