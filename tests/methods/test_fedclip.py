from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from promptfed.methods.fedclip import FedCLIP, FedCLIPConfig, adapted, contrast
from promptfed.methods.zero_shot import ZeroShot
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast


def test_the_adapter_by_hand():
    """W1 = 0: hidden = tanh(b1). W2 = [[1, 0], [0, 0]], b2 = 0: a = softmax(tanh 1, 0)."""
    adapter = {
        "w1": torch.zeros(2, 2),
        "b1": torch.tensor([1.0, -5.0]),
        "w2": torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        "b2": torch.zeros(2),
    }
    share = 1 / (1 + math.exp(-math.tanh(1)))
    found = adapted(adapter, torch.tensor([[3.0, -2.0]]))
    assert found.tolist() == [pytest.approx([3 * share, -2 * (1 - share)])]


def test_without_repeated_classes_the_loss_is_the_papers():
    logits, labels = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([4, 0, 2])
    pairs, right = logits[:, labels], torch.arange(3)
    paper = (F.cross_entropy(pairs, right) + F.cross_entropy(pairs.T, right)) / 2
    assert contrast(logits, labels).item() == pytest.approx(paper.item())


def test_samples_of_one_class_are_no_negatives_of_each_other():
    """A batch told apart perfectly, two samples a class: nothing is left to learn. The plain loss still sees log 2,
    and so does the one with soft targets."""
    logits, labels = 100 * torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])
    assert contrast(logits, labels).item() == pytest.approx(0, abs=1e-6)
    pairs = logits[:, labels]
    assert F.cross_entropy(pairs, torch.arange(4)).item() == pytest.approx(math.log(2))
    soft = (labels[:, None] == labels).float() / 2
    assert F.cross_entropy(pairs, soft).item() == pytest.approx(math.log(2))


def test_the_surer_of_two_alike_images_is_not_held_back():
    logits = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    contrast(logits, torch.tensor([0, 0, 1])).backward()
    assert logits.grad[0, 0] < 0, "more of it still lowers the loss"
    assert logits.grad[1, 0] < logits.grad[0, 0], "and the less sure one has more to gain"


def test_a_batch_of_one_class_teaches_nothing(setup, toy_task):
    method = FedCLIP(FedCLIPConfig(), setup)
    shared = method.init_shared()
    update, _ = method.train(Broadcast(1, shared), toy_task.clients[0], NO_PROMPT)
    assert update.loss == pytest.approx(0)
    assert update.shared == shared


def test_one_sgd_step_is_the_gradient_of_the_formula(setup, toy_task):
    config = FedCLIPConfig(optimizer="sgd", momentum=0, lr=0.3, schedule="constant", local_epochs=1, batch_size=100)
    method, data = FedCLIP(config, setup), toy_task.clients[2]
    shared = method.init_shared()
    update, _ = method.train(Broadcast(1, shared), data, NO_PROMPT)

    p = {name: tensor.clone().requires_grad_(True) for name, tensor in shared.items()}
    z = setup.features.images(data.train)
    attention = torch.softmax(torch.tanh(z @ p["w1"].T + p["b1"]) @ p["w2"].T + p["b2"], -1)
    images = F.normalize(attention * z, dim=-1)
    texts = F.normalize(setup.features.texts(["blue", "ochre"]), dim=-1)
    labels = [label - 2 for label in data.train.labels.tolist()]
    cosines = 10 * images @ texts.T
    terms = []
    for i, own in enumerate(labels):
        right = cosines[i, own]
        strangers = [j for j, label in enumerate(labels) if label != own]
        for wrong in (torch.stack([cosines[i, labels[j]] for j in strangers]), cosines[strangers, own]):
            terms.append(torch.logsumexp(torch.cat([right[None], wrong]), 0) - right)
    loss = sum(terms) / len(terms)
    loss.backward()
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)
    for name, tensor in shared.items():
        assert torch.allclose(update.shared[name], tensor - 0.3 * p[name].grad, atol=1e-6), name


def test_training_tells_the_clients_classes_apart(setup, toy_task):
    method, data = FedCLIP(FedCLIPConfig(local_epochs=20), setup), toy_task.clients[2]
    shared = method.init_shared()

    def right(state):
        guesses = method.logits(state, NO_PROMPT, ["blue", "ochre"], data.train).argmax(-1)
        return float((guesses + 2 == data.train.labels).float().mean())

    update, _ = method.train(Broadcast(1, shared), data, NO_PROMPT)
    assert right(update.shared) >= right(shared)
    again, _ = method.train(Broadcast(1, update.shared), data, NO_PROMPT)
    assert again.loss < update.loss


def test_an_adapter_that_weights_all_alike_is_zero_shot(setup, toy_task):
    method = FedCLIP(FedCLIPConfig(), setup)
    flat = method.init_shared() * 0
    zero_shot = ZeroShot(ZeroShot.Config(), setup)
    scores = PromptState({"accuracy": torch.tensor([1.0, 0.0, 0.0])})
    for names, split in ((toy_task.base_classes, toy_task.base_test), (toy_task.new_classes, toy_task.new_test)):
        expected = zero_shot.logits(scores, NO_PROMPT, names, split)
        assert torch.allclose(method.logits(flat, NO_PROMPT, names, split), expected, atol=1e-5)


def test_sentences_and_images_are_encoded_once_and_never_in_training(setup, toy_task):
    method, data = FedCLIP(FedCLIPConfig(template="the {}"), setup), toy_task.clients[2]
    method.problem(Broadcast(1, method.init_shared()), data, NO_PROMPT)
    before = (setup.backbone.calls.images, setup.backbone.calls.texts)
    method.train(Broadcast(1, method.init_shared()), data, NO_PROMPT)
    method.class_features(method.init_shared(), NO_PROMPT, toy_task.base_classes)
    assert (setup.backbone.calls.images, setup.backbone.calls.texts) == before


def test_the_adapter_is_all_that_is_sent_and_nothing_is_kept(setup, toy_task):
    method = FedCLIP(FedCLIPConfig(), setup)
    update, kept = method.train(Broadcast(1, method.init_shared()), toy_task.clients[2], NO_PROMPT)
    shapes = {name: tuple(tensor.shape) for name, tensor in update.shared.items()}
    assert shapes == {"b1": (3,), "b2": (3,), "w1": (3, 3), "w2": (3, 3)}
    assert len(kept) == 0


def test_two_clients_together_are_two_one_by_one(setup, toy_task):
    method = FedCLIP(FedCLIPConfig(batch_size=4), setup)
    jobs = [(Broadcast(1, method.init_shared()), data, NO_PROMPT) for data in toy_task.clients[1:]]
    for (update, _), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, _ = method.train(*job)
        assert (update.shared - alone.shared).norm() < 1e-5
