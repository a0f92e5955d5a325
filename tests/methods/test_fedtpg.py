from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.base import AGGREGATORS, build_aggregator
from promptfed.backbones import load_backbone
from promptfed.backbones.base import PromptedText
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureStore
from promptfed.config import RunConfig
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods.fedtpg import FedTPG, FedTPGConfig
from promptfed.methods.fedtpg.generator import ContextGenerator
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve
from promptfed.types import NO_PROMPT, Broadcast

PLAIN = {"optimizer": "sgd", "momentum": 0, "schedule": "constant", "local_epochs": 1, "batch_size": 100}


def method_on(setup, **options):
    return FedTPG(FedTPGConfig(**options), setup)


def federation(setup, task, aggregator="uniform", **options):
    method = method_on(setup, **options)
    return Federation(method, build_aggregator(aggregator, {}), LocalEngine(ClientWorker(method, task)), range(3))


def test_the_shared_prompt_is_the_generator_and_nothing_is_personal(setup):
    method = method_on(setup)
    shared = method.init_shared()
    assert {name: tuple(t.shape) for name, t in shared.items()} == ContextGenerator(4, 3).shapes
    assert shared == method_on(setup).init_shared()
    assert shared != method_on(setup.agreeing(seed=1)).init_shared()
    assert len(method.init_personal(0)) == 0
    assert set(method.uploads(0, shared)) == set(shared)


def test_one_sgd_step_is_the_gradient_of_the_papers_loss(setup, toy_task):
    method, data = method_on(setup, lr=0.3, **PLAIN), toy_task.clients[2]
    shared = method.init_shared()
    update, kept = method.train(Broadcast(1, shared), data, NO_PROMPT)

    backbone, own = setup.backbone, ["blue", "ochre"]
    parameters = {name: t.clone().requires_grad_(True) for name, t in shared.items()}
    embeddings = F.normalize(torch.cat([backbone.encode_text([name]) for name in own]), dim=-1)
    [context] = ContextGenerator(4, 3)(parameters, embeddings)
    texts = backbone.encode_prompted_text(context, backbone.class_tokens(own, 4))
    logits = 10.0 * F.normalize(setup.features.images(data.train), dim=-1) @ F.normalize(texts, dim=-1).T
    loss = F.cross_entropy(logits, data.train.labels - 2)
    loss.backward()
    for name, tensor in parameters.items():
        assert torch.allclose(update.shared[name], shared[name] - 0.3 * tensor.grad, atol=1e-6), name
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)
    assert (update.samples, len(kept)) == (10, 0)


def test_the_order_of_class_names_changes_nothing(setup, toy_task):
    method = method_on(setup, model_depth=1)
    shared, names = method.init_shared(), ["red", "pink", "ochre", "blue"]
    assert torch.allclose(method.contexts(shared, names), method.contexts(shared, names[::-1]), atol=1e-6)
    features = method.class_features(shared, NO_PROMPT, names)
    assert torch.allclose(features, method.class_features(shared, NO_PROMPT, names[::-1]).flip(0), atol=1e-6)


def test_each_task_gets_a_context_of_its_own_also_for_names_never_seen(setup):
    method = method_on(setup)
    shared = method.init_shared()
    seen, unseen = method.contexts(shared, ["red", "blue"]), method.contexts(shared, ["teal", "plum_red"])
    assert seen.shape == unseen.shape == (1, 4, 4)
    assert not torch.allclose(seen, unseen)
    features = method.class_features(shared, NO_PROMPT, ["teal", "plum_red"])
    assert torch.allclose(features.norm(dim=-1), torch.ones(2))
    assert torch.equal(
        method.class_embeddings(["plum_red"]), F.normalize(setup.backbone.encode_text(["plum red"]), dim=-1)
    ), "the bare name, without a template and without underscores"


def test_by_default_a_client_knows_its_own_classes_only(setup, toy_task):
    one = toy_task.clients[0]
    update, _ = method_on(setup).train(Broadcast(1, method_on(setup).init_shared()), one, NO_PROMPT)
    assert update.loss == 0.0, "one class: nothing to tell apart"
    update, _ = method_on(setup, label_space="all").train(Broadcast(1, method_on(setup).init_shared()), one, NO_PROMPT)
    assert update.loss > 0.0


def test_bare_names_are_encoded_once(setup, toy_task):
    method, data, calls = method_on(setup, **PLAIN), toy_task.clients[2], setup.backbone.calls
    setup.features.images(data.train)
    shared = method.init_shared()
    before = calls.texts
    method.train(Broadcast(1, shared), data, NO_PROMPT)
    assert calls.texts - before == 2 + 2, "two bare names, and one step with two prompted ones"
    method.train(Broadcast(2, shared), data, NO_PROMPT)
    assert calls.texts - before == 2 + 2 + 2
    assert calls.images == len(data.train)


def test_side_by_side_is_as_one_by_one(setup, toy_task):
    method = method_on(setup, label_space="all")
    shared = method.init_shared()
    jobs = [(Broadcast(2, shared), data, NO_PROMPT) for data in toy_task.clients]
    for (together, _), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, _ = method.train(*job)
        assert (together.shared - alone.shared).norm() < 1e-5
        assert together.loss == pytest.approx(alone.loss, abs=1e-5)


def test_rates_follow_the_round_and_momentum_does_not_outlive_it(setup, toy_task):
    method = method_on(setup, optimizer="sgd", lr=0.1)
    shared, data = method.init_shared(), toy_task.clients[2]
    first, _ = method.train(Broadcast(1, shared), data, NO_PROMPT)
    last, _ = method.train(Broadcast(3, shared), data, NO_PROMPT)
    again, _ = method.train(Broadcast(1, shared), data, NO_PROMPT)
    assert again.shared == first.shared
    assert (last.shared - shared).norm() < 0.5 * (first.shared - shared).norm()


def test_clients_count_alike_by_default_and_by_their_images_if_asked(setup, toy_task):
    assert resolve(RunConfig(method="fedtpg")).aggregator == "uniform"
    assert resolve(RunConfig(method="fedtpg", aggregator="mean")).aggregator == "mean"
    for aggregator, weights in (("uniform", [1, 1, 1]), ("mean", [3, 4, 10])):
        fed = federation(setup, toy_task, aggregator, label_space="all")
        state, replies = fed.run_round(fed.start())
        for name, tensor in state.shared.items():
            parts = [w * reply.update.shared[name].double() for w, reply in zip(weights, replies, strict=True)]
            assert torch.allclose(tensor.double(), sum(parts) / sum(weights), atol=1e-7)


def test_every_aggregator_it_names_is_there():
    assert set(FedTPG.aggregators) <= set(AGGREGATORS)


def test_small_steps_are_not_lost_in_the_average(setup, toy_task):
    """In fp16 a gain near 1 cannot move by less than 4.9e-4; here it can."""
    fed = federation(setup, toy_task, label_space="all", lr=1e-5, optimizer="sgd", momentum=0)
    start = fed.start()
    state, _ = fed.run_round(start)
    gain = "meta_net.encoder.cross_attend_blocks.1.net.0.weight"
    moved = (state.shared[gain] - start.shared[gain]).abs()
    assert 0 < moved.max() < 4.9e-4


def test_federation_lowers_the_loss_over_everybodys_images(setup, toy_task):
    fed = federation(setup, toy_task, label_space="all", lr=0.1, **PLAIN)

    def loss(shared):
        found = [
            F.cross_entropy(fed.method.logits(shared, NO_PROMPT, toy_task.base_classes, c.train), c.train.labels)
            for c in toy_task.clients
        ]
        return float(sum(found))

    state = fed.start()
    before = loss(state.shared)
    for _ in range(5):
        state, _ = fed.run_round(state)
    assert loss(state.shared) < 0.95 * before


# ------------------------------------------------------------------------------------------------ deep prompts


def test_what_does_not_fit_the_backbone_is_refused(setup):
    with pytest.raises(ConfigError, match=r"'prompt_depth' is 2.*deep text prompts.*'toy' has not.*tiny"):
        method_on(setup, prompt_depth=2)
    with pytest.raises(ConfigError, match=r"'heads' is 3.*token width 4"):
        method_on(setup, heads=3)


@pytest.fixture(scope="module")
def tiny():
    return load_backbone("tiny")


def test_with_a_deeper_prompt_every_part_of_it_counts(tiny, setup):
    names = ("cat", "dog")
    real = replace(setup, model=DualEncoder(FeatureStore(tiny))).agreeing(classes=names)
    method = method_on(real, prompt_depth=3, n_ctx=2)
    shared = method.init_shared()
    before = method.class_features(shared, NO_PROMPT, names)
    contexts = method.contexts(shared, names)
    by_hand = tiny.encode_prompted_text(contexts[0], tiny.class_tokens(names, 2), contexts[1:])
    assert torch.allclose(before, F.normalize(by_hand, dim=-1), atol=1e-6)
    queries = shared["meta_net.soft_prompt"]
    for row in range(6):
        changed = queries.clone()
        changed[row] = torch.linspace(-1, 1, 128)
        after = method.class_features(PromptState({**shared, "meta_net.soft_prompt": changed}), NO_PROMPT, names)
        assert (after - before).abs().max() > 1e-5, f"query {row} is lost"
    released = method_on(real, prompt_depth=3, n_ctx=2, input_context="overwritten")
    deeply = PromptedText(torch.zeros(2, 128), tiny.class_tokens(names, 2), contexts[1:], first=0)
    theirs = F.normalize(tiny.encode_prompted_texts([deeply])[0], dim=-1)
    assert torch.allclose(released.class_features(shared, NO_PROMPT, names), theirs, atol=1e-6)
    assert (theirs - before).abs().max() > 1e-3
    with pytest.raises(ConfigError, match=f"has {tiny.text_layers} blocks"):
        method_on(real, prompt_depth=tiny.text_layers + 1)
