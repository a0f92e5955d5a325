from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.methods.fedapt import FedAPT, FedAPTConfig
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast


def make(setup, **options):
    return FedAPT(FedAPTConfig(**{"n_ctx": 3, **options}), setup)


def shaken(state):
    noise = torch.Generator().manual_seed(5)
    return state.map(lambda t: t + 0.5 * torch.randn(t.shape, generator=noise))


def test_keys_are_known_to_all_and_never_sent(setup, toy_task):
    method = make(setup)
    assert torch.equal(method.keys, make(setup).keys)
    assert not torch.equal(method.keys, make(setup.agreeing(seed=1)).keys)
    assert method.keys.shape == (3, 3, 4)
    assert 0 <= method.keys.min() < method.keys.max() < 1
    shared = method.init_shared()
    shapes = {"ctx": (4, 3, 4), "query": (3, 3)}
    assert {name: tuple(t.shape) for name, t in shared.items()} == shapes
    update, kept = method.train(Broadcast(1, shared), toy_task.clients[0], NO_PROMPT)
    assert {name: tuple(t.shape) for name, t in update.shared.items()} == shapes
    assert len(kept) == 0


def test_one_step_is_the_gradient_of_both_losses(setup, toy_task):
    sgd = {"optimizer": "sgd", "momentum": 0, "lr": 1.0, "local_epochs": 1, "batch_size": 100, "schedule": "constant"}
    method, data = make(setup, **sgd), toy_task.clients[2]
    start = shaken(method.init_shared())
    update, _ = method.train(Broadcast(1, start), data, NO_PROMPT)

    leaf = {name: tensor.clone().requires_grad_(True) for name, tensor in start.items()}
    tokens = setup.backbone.class_tokens(toy_task.base_classes, 3)
    texts = setup.backbone.encode_prompted_text(leaf["ctx"] * (1 + method.keys[2]), tokens)
    raw = setup.features.images(data.train)
    logits = 10.0 * F.normalize(raw, dim=-1) @ F.normalize(texts, dim=-1).T
    scores = raw @ leaf["query"].T
    loss = F.cross_entropy(logits, data.train.labels) + F.cross_entropy(scores, torch.full((len(raw),), 2))
    loss.backward()
    for name in leaf:
        torch.testing.assert_close(update.shared[name], start[name] - leaf[name].grad, atol=1e-5, rtol=1e-4)
        assert leaf[name].grad.abs().max() > 1e-4
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)


def test_domain_weights_are_a_sharp_softmax_of_standardised_scores(setup):
    method = make(setup, tau=0.5)
    shared = PromptState({**method.init_shared(), "query": torch.eye(3)})
    found = method.domain_weights(shared, torch.tensor([[3.0, 0.0, 0.0], [7.0, 1.0, 1.0]]))
    # mean 1, unbiased variance (4 + 1 + 1) / 2 = 3: (2, -1, -1) / sqrt(3) / 0.5; the second image's scores are an
    # affine map of the first's
    expected = torch.tensor([2.0, -1.0, -1.0]).mul(2 / 3**0.5).softmax(0)
    torch.testing.assert_close(found, expected.expand(2, -1))


def test_one_hot_inference_is_the_papers_prompt_for_each_image(setup, toy_task):
    method = make(setup, tau=1e-4)
    shared, split = shaken(method.init_shared()), toy_task.base_test
    images = setup.features.images(split)
    weights = method.domain_weights(shared, images)
    assert weights.max(-1).values.min() > 0.999
    assert len(weights.argmax(-1).unique()) > 1, "the test needs images of different domains"
    tokens = setup.backbone.class_tokens(toy_task.base_classes, 3)
    rows = []
    for image, weight in zip(images, weights, strict=True):
        key = torch.einsum("k,knd->nd", weight, method.keys)
        texts = setup.backbone.encode_prompted_text(shared["ctx"] * (1 + key), tokens)
        rows.append(10.0 * F.cosine_similarity(image, texts, dim=-1))
    found = method.logits(shared, NO_PROMPT, toy_task.base_classes, split)
    torch.testing.assert_close(found, torch.stack(rows), atol=1e-3, rtol=1e-3)


def test_text_calls_do_not_depend_on_the_number_of_images(setup, toy_task):
    method, calls = make(setup), setup.backbone.calls
    counts = []
    for split in (toy_task.clients[0].test, toy_task.base_test):
        before = calls.texts
        method.logits(method.init_shared(), NO_PROMPT, toy_task.base_classes, split)
        counts.append(calls.texts - before)
    assert counts == [3 * 4, 3 * 4]
    shared = method.init_shared()
    method.logits(shared, NO_PROMPT, toy_task.base_classes, toy_task.base_test)
    before = calls.texts
    method.logits(shared, NO_PROMPT, toy_task.base_classes, toy_task.clients[1].test)
    assert calls.texts == before, "the same prompt and classes again: nothing to encode"


def test_new_class_names_get_the_mean_meta_prompt(setup, toy_task):
    method = make(setup)
    shared, split = shaken(method.init_shared()), toy_task.new_test
    mean = PromptState({**shared, "ctx": shared["ctx"].mean(0).expand(4, -1, -1)})
    found = method.logits(shared, NO_PROMPT, toy_task.new_classes, split)
    torch.testing.assert_close(found, method.logits(mean, NO_PROMPT, toy_task.new_classes, split))
    assert found.shape == (10, 2)
    mixed = method.logits(shared, NO_PROMPT, ("cyan", "blue"), split)
    torch.testing.assert_close(mixed[:, 0], found[:, 1])
    own = method.logits(shared, NO_PROMPT, toy_task.base_classes, split)
    torch.testing.assert_close(mixed[:, 1], own[:, 2])


def test_with_one_domain_there_is_nothing_to_choose(setup, toy_task):
    method = make(setup.agreeing(domains=("one", "one", "one")), class_specific=False)
    shared = shaken(method.init_shared())
    images = setup.features.images(toy_task.base_test)
    assert torch.equal(method.domain_weights(shared, images), torch.ones(20, 1))
    tokens = setup.backbone.class_tokens(toy_task.base_classes, 3)
    texts = setup.backbone.encode_prompted_text(shared["ctx"] * (1 + method.keys[0]), tokens)
    found = method.class_features(shared, NO_PROMPT, toy_task.base_classes)
    torch.testing.assert_close(found, F.normalize(texts, dim=-1))


def test_the_federation_learns_to_tell_domains_apart(setup, toy_task):
    """Each client knows one domain only, and alone would call everything its own."""
    method = make(setup, optimizer="sgd", momentum=0.0, lr=0.5, schedule="constant", batch_size=100)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(2))
    state = fed.start()
    for _ in range(20):
        state, _ = fed.run_round(state)
    for data in toy_task.clients[:2]:
        weights = method.domain_weights(state.shared, setup.features.images(data.test))
        assert weights.argmax(-1).tolist() == [data.client] * len(data.test)


def test_clients_side_by_side_learn_what_they_learn_alone(setup, toy_task):
    method = make(setup, batch_size=3)
    shared = shaken(method.init_shared())
    jobs = [(Broadcast(1, shared), toy_task.clients[k], NO_PROMPT) for k in (0, 2)]
    for job, (update, _) in zip(jobs, method.train_many(jobs), strict=True):
        assert (update.shared - method.train(*job)[0].shared).norm() < 1e-5
