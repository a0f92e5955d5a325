from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.build_method import build_method
from promptfed.config import validate
from promptfed.errors import ConfigError
from promptfed.methods.kgcoop import KgCoOp, KgCoOpConfig
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.types import NO_PROMPT, Broadcast

PLAIN = {"optimizer": "sgd", "momentum": 0, "schedule": "constant", "local_epochs": 1, "batch_size": 100}


def method_on(setup, **options):
    return KgCoOp(KgCoOpConfig(**options), setup)


def sentences(setup, classes, template):
    return torch.cat([setup.backbone.encode_text([template.format(name)]) for name in classes])


@pytest.mark.parametrize(("template", "sentence"), [("", "{}"), ("a {} dot", "a {} dot")])
def test_one_sgd_step_is_the_gradient_of_the_papers_loss(setup, toy_task, template, sentence):
    method, data = method_on(setup, lr=0.1, template=template, **PLAIN), toy_task.clients[2]
    shared = method.init_shared()
    update, _ = method.train(Broadcast(1, shared), data, NO_PROMPT)

    ctx, classes = shared["ctx"].clone().requires_grad_(True), toy_task.base_classes
    texts = F.normalize(setup.backbone.encode_prompted_text(ctx, setup.backbone.class_tokens(classes, 4)), dim=-1)
    images = F.normalize(setup.features.images(data.train), dim=-1)
    written = F.normalize(sentences(setup, classes, sentence), dim=-1)
    pull = 8 * (1 - (texts * written).sum(-1).mean())
    loss = F.cross_entropy(10.0 * images @ texts.T, data.train.labels) + pull
    loss.backward()
    assert torch.allclose(update.shared["ctx"], shared["ctx"] - 0.1 * ctx.grad, atol=1e-6)
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)


def test_without_the_pull_it_is_promptfl(setup, toy_task):
    plain, data = PromptFL(PromptFLConfig(n_ctx=4), setup), toy_task.clients[2]
    shared = plain.init_shared()
    expected, _ = plain.train(Broadcast(1, shared), data, NO_PROMPT)
    found, _ = method_on(setup, weight=0).train(Broadcast(1, shared), data, NO_PROMPT)
    assert found.shared == expected.shared
    assert method_on(setup).init_shared() == shared


def test_the_pull_keeps_texts_near_the_template_also_those_of_new_names(setup, toy_task):
    names = toy_task.base_classes + toy_task.new_classes
    written = sentences(setup, names, "{}")

    def likeness(weight):
        method = method_on(setup, weight=weight, local_epochs=20, lr=0.05)
        update, _ = method.train(Broadcast(1, method.init_shared()), toy_task.clients[2], NO_PROMPT)
        features = method.class_features(update.shared, NO_PROMPT, names)
        assert torch.allclose(features.norm(dim=-1), torch.ones(len(names)))
        return F.cosine_similarity(features, written, dim=-1).mean().item()

    assert likeness(1000) > likeness(8) > likeness(0)


def test_template_features_are_computed_once(setup, toy_task):
    method, calls = method_on(setup, local_epochs=3, batch_size=100), setup.backbone.calls
    shared = method.init_shared()
    before = calls.texts
    for client in (1, 2):
        method.train(Broadcast(1, shared), toy_task.clients[client], NO_PROMPT)
    steps = 2 * 3 * 4  # clients x epochs x classes
    assert calls.texts - before == 4 + steps
    method.train(Broadcast(2, shared), toy_task.clients[1], NO_PROMPT)
    assert calls.texts - before == 4 + steps + 3 * 4


def test_the_pull_is_on_the_classes_of_the_clients_softmax(setup, toy_task):
    method, data = method_on(setup, label_space="own", **PLAIN), toy_task.clients[0]
    shared = method.init_shared()
    update, _ = method.train(Broadcast(1, shared), data, NO_PROMPT)
    own = method.class_features(shared, NO_PROMPT, ["red"])
    pull = 8 * (1 - F.cosine_similarity(own, sentences(setup, ["red"], "{}"), dim=-1).item())
    assert update.loss == pytest.approx(pull, abs=1e-4), "with a single class there is nothing but the pull"


def test_only_the_context_is_shared_and_side_by_side_is_as_one_by_one(setup, toy_task):
    method = method_on(setup)
    shared = method.init_shared()
    assert {name: tuple(t.shape) for name, t in shared.items()} == {"ctx": (4, 4)}
    jobs = [(Broadcast(1, shared), data, NO_PROMPT) for data in toy_task.clients[1:]]
    for (together, kept), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, _ = method.train(*job)
        assert (together.shared - alone.shared).norm() < 1e-5
        assert len(kept) == 0


def test_a_template_needs_a_place_for_the_name(setup):
    with pytest.raises(ConfigError, match=r"template.*\{\}"):
        build_method("kgcoop", {"template": "a photo"}, setup)
    assert validate(KgCoOpConfig, {"template": "an icon of {}"}, "method option").template == "an icon of {}"
