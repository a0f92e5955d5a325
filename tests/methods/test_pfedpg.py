from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.cosines import cosine_logits
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods.pfedpg import PFedPG, PFedPGConfig, descriptor_of, generate, mean_descriptor
from promptfed.prompt_state import PromptState
from promptfed.prompts.templates import template_features
from promptfed.types import NO_PROMPT, Broadcast, Update

PROJECTIONS = ("query", "key", "value", "out")


def make(setup, **options):
    return PFedPG(PFedPGConfig(**{"n_ctx": 2, **options}), setup)


def server_of(method):
    return method.server_side(Mean(Mean.Config()))


def trained(method, phi, clients, seed=0):
    """Updates of ``clients``, as if each had moved its prompt by some noise; client n stands for n + 1 samples."""
    noise = torch.Generator().manual_seed(seed)
    found = []
    for n in clients:
        sent = server_of(method).broadcast(phi, NO_PROMPT, n)
        moved = sent.map(lambda t: t + 0.3 * torch.randn(t.shape, generator=noise))
        found.append(Update(n, moved, n + 1, 0.0, 0.0))
    return found


def joint_gradient(phi, updates):
    """Autograd of the joint loss ``1/2 sum_n (n_i / n) |P_n(phi) - P~_n|^2``, name by name; None where it is none."""
    leaf = {name: tensor.clone().requires_grad_(True) for name, tensor in phi.items()}
    total = sum(update.samples for update in updates)
    loss = sum(
        0.5 * u.samples / total * (generate(leaf, leaf[f"descriptor/{u.client}"]) - u.shared["visual"]).square().sum()
        for u in updates
    )
    loss.backward()
    return {name: tensor.grad for name, tensor in leaf.items()}


def test_the_server_s_step_is_the_gradient_of_the_joint_loss(promptable_setup):
    method = make(promptable_setup, server_optimizer="sgd", server_lr=0.7)
    phi = method.init_shared()
    updates = trained(method, phi, (0, 2))
    after, memory = server_of(method).apply(phi, updates, NO_PROMPT)
    gradient = joint_gradient(phi, updates)
    for name in ("base", *PROJECTIONS, "descriptor/0", "descriptor/2"):
        assert gradient[name].abs().max() > 0, name
        torch.testing.assert_close(after[name], phi[name] - 0.7 * gradient[name], atol=1e-6, rtol=1e-5)
    assert gradient["descriptor/1"] is None
    assert torch.equal(after["descriptor/1"], phi["descriptor/1"])
    assert len(memory) == 0


def test_a_small_step_brings_what_is_made_nearer_to_what_was_trained(promptable_setup):
    method = make(promptable_setup, server_optimizer="sgd", server_lr=0.05)
    server, phi = server_of(method), method.init_shared()
    updates = trained(method, phi, range(3))

    def apart(at):
        return sum(u.samples * (server.broadcast(at, NO_PROMPT, u.client) - u.shared).norm() ** 2 for u in updates)

    after, _ = server.apply(phi, updates, NO_PROMPT)
    assert apart(after) < apart(phi)


def test_adamw_on_the_server_is_torchs_and_leaves_absent_clients_alone(promptable_setup):
    method = make(promptable_setup, server_lr=0.02)
    server, phi, memory = server_of(method), method.init_shared(), NO_PROMPT
    live = {name: tensor.clone().requires_grad_(True) for name, tensor in phi.items()}
    optimizer = torch.optim.AdamW(live.values(), lr=0.02, weight_decay=0.0)
    for round, clients in enumerate([(0, 1), (1,), (0, 1)]):
        updates = trained(method, phi, clients, seed=round)
        for name, gradient in joint_gradient(phi, updates).items():
            live[name].grad = gradient
        optimizer.step()
        before = phi
        phi, memory = server.apply(phi, updates, PromptState.from_bytes(memory.to_bytes()))
        if clients == (1,):
            assert torch.equal(phi["descriptor/0"], before["descriptor/0"])
            assert memory["descriptor/0/step"] == 1
            assert memory["descriptor/1/step"] == 2
    for name in phi:
        torch.testing.assert_close(phi[name], live[name].detach(), atol=1e-6, rtol=1e-5)
    assert not [name for name in memory if name.startswith("descriptor/2")]


def test_updates_in_another_order_give_the_same_hyper_network(promptable_setup):
    method = make(promptable_setup, server_optimizer="sgd", server_lr=1.0)
    phi = method.init_shared()
    updates = trained(method, phi, range(3))
    forth, _ = server_of(method).apply(phi, updates, NO_PROMPT)
    back, _ = server_of(method).apply(phi, updates[::-1], NO_PROMPT)
    assert (forth - back).norm() < 1e-5


def test_the_prompt_is_the_base_and_the_descriptors_attention_over_it(promptable_setup):
    phi = {name: tensor.numpy() for name, tensor in make(promptable_setup).init_shared().items()}
    keys = [phi["key"] @ token for token in phi["base"]]
    scores = np.array([key @ (phi["query"] @ phi["descriptor/1"]) for key in keys]) / np.sqrt(3)
    weights = np.exp(scores) / np.exp(scores).sum()
    value = sum(w * (phi["value"] @ token) for w, token in zip(weights, phi["base"], strict=True))
    expected = phi["base"] + phi["out"] @ value
    tensors = {name: torch.from_numpy(array) for name, array in phi.items()}
    found = generate(tensors, tensors["descriptor/1"])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_clients_are_sent_prompts_of_their_own_and_never_the_hyper_network(promptable_setup, toy_task):
    method = make(promptable_setup)
    fed = Federation(method, server_of(method), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state, replies = fed.run_round(fed.start())
    assert not any(reply.failure for reply in replies)
    prompts = [fed.prompt(state, client).shared for client in (0, 1, 2, None)]
    assert [{name: tuple(t.shape) for name, t in p.items()} for p in prompts] == [{"visual": (2, 3)}] * 4
    assert all(a != b for i, a in enumerate(prompts) for b in prompts[i + 1 :])
    middle = torch.stack([state.shared[descriptor_of(n)] for n in range(3)]).mean(0)
    assert torch.equal(prompts[3]["visual"], generate(state.shared, middle))
    assert set(replies[0].update.shared) == {"visual"}
    assert len(replies[0].personal) == 0


def test_a_clients_step_is_the_gradient_of_its_own_loss(promptable_setup, toy_task):
    sgd = {"optimizer": "sgd", "momentum": 0, "lr": 1.0, "local_epochs": 1, "batch_size": 100, "schedule": "constant"}
    method, data = make(promptable_setup, **sgd), toy_task.clients[2]
    backbone = promptable_setup.backbone
    sent = server_of(method).broadcast(method.init_shared(), NO_PROMPT, 2)
    update, _ = method.train(Broadcast(1, sent), data, NO_PROMPT)
    visual = sent["visual"].clone().requires_grad_(True)
    names = F.normalize(template_features(promptable_setup, toy_task.base_classes), dim=-1)
    seen = backbone.encode_prompted_images(promptable_setup.features.pixels(data.train), visual)
    F.cross_entropy(10.0 * F.normalize(seen.features, dim=-1) @ names.T, data.train.labels).backward()
    torch.testing.assert_close(update.shared["visual"], sent["visual"] - visual.grad, atol=1e-5, rtol=1e-4)
    assert visual.grad.abs().max() > 1e-4

    logits = method.logits(sent, NO_PROMPT, toy_task.base_classes, data.train)
    torch.testing.assert_close(logits, cosine_logits(seen.features.detach(), names, 10.0), atol=1e-5, rtol=1e-5)
    assert method.logits(sent, NO_PROMPT, toy_task.new_classes, toy_task.new_test).shape == (10, 2)


@pytest.mark.parametrize("side", ["visual", "text"])
def test_a_new_client_fits_a_descriptor_and_nothing_else(promptable_setup, toy_task, side):
    method = make(promptable_setup, side=side, lr=0.05)
    phi = method.init_shared()
    before = PromptState(dict(phi))
    data = replace(toy_task.clients[2], client=7)
    prompt = method.fit_descriptor(phi, data, rounds=20)
    assert phi == before
    middle = server_of(method).broadcast(phi, NO_PROMPT, None)
    assert prompt.mismatch(middle) is None
    assert prompt != middle

    def loss(shared):
        logits = method.logits(shared, NO_PROMPT, toy_task.base_classes, data.train)
        return F.cross_entropy(logits, data.train.labels).item()

    assert loss(prompt) < loss(middle)
    name = "visual" if side == "visual" else "ctx"
    offset = prompt[name] - phi["base"]
    torch.testing.assert_close(offset[0], offset[1])  # what the generator can make: one offset for all tokens


def test_the_text_side_asks_nothing_of_the_image_tower(setup, toy_task):
    method = build_method("pfedpg", {"side": "text", "n_ctx": 3, "lr": 0.05}, setup)
    fed = Federation(method, server_of(method), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state, replies = fed.run_round(fed.start())
    assert {name: tuple(t.shape) for name, t in replies[0].update.shared.items()} == {"ctx": (3, 4)}
    shared = fed.prompt(state, None).shared
    features = method.class_features(shared, NO_PROMPT, toy_task.new_classes)
    tokens = setup.backbone.class_tokens(toy_task.new_classes, 3)
    torch.testing.assert_close(
        features, F.normalize(setup.backbone.encode_prompted_text(shared["ctx"], tokens), dim=-1)
    )
    logits = method.logits(shared, NO_PROMPT, toy_task.new_classes, toy_task.new_test)
    torch.testing.assert_close(logits, cosine_logits(setup.features.images(toy_task.new_test), features, 10.0))
    assert method.reads_texts_only


def test_it_says_so_where_images_cannot_be_prompted(setup):
    with pytest.raises(ConfigError, match=r"visual prompts, which 'toy' has not.*method\.side=text"):
        build_method("pfedpg", {}, setup)


def test_mean_descriptor_is_over_clients_only(promptable_setup):
    phi = make(promptable_setup).init_shared()
    by_hand = (phi["descriptor/0"] + phi["descriptor/1"] + phi["descriptor/2"]) / 3
    torch.testing.assert_close(mean_descriptor(phi), by_hand)


def test_clients_side_by_side_learn_what_they_learn_alone(promptable_setup, toy_task):
    method = make(promptable_setup, batch_size=3)
    server, phi = server_of(method), method.init_shared()
    jobs = [(Broadcast(1, server.broadcast(phi, NO_PROMPT, k)), toy_task.clients[k], NO_PROMPT) for k in (0, 2)]
    for job, (update, _) in zip(jobs, method.train_many(jobs), strict=True):
        assert (update.shared - method.train(*job)[0].shared).norm() < 1e-5
