from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods.fedmap import FedMAP, FedMAPConfig, move_prototypes, structure_loss
from promptfed.personalize.onboard import bound_to_classes
from promptfed.prompt_state import PromptState
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint
from promptfed.types import NO_PROMPT, Broadcast

ONE_STEP = {
    "optimizer": "sgd", "momentum": 0, "lr": 0.5, "schedule": "constant", "local_epochs": 1, "batch_size": 100,
}  # fmt: skip
ATTRIBUTES = {"red": ("warm", "like blood"), "green": ("like grass",), "blue": ("sky", "sea"), "ochre": ("earth",)}


def make(setup, **options):
    return FedMAP(FedMAPConfig(**{"n_visual": 2, "attributes": ATTRIBUTES, **options}), setup)


def federation(method, task):
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, task)), range(3))


# ------------------------------------------------------------------------------------------- formulas by hand


def test_prototypes_by_hand():
    """Class 0 was seen before, class 2 was not; class 1 is not in the batch, whose lengths are all one."""
    prototypes = torch.tensor([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
    seen = torch.tensor([0.25, 1.0, 0.0])
    move_prototypes(
        prototypes,
        seen,
        torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [1.0, 0.0]]),
        torch.tensor([0, 2, 0, 2]),
        0.75,
    )
    mean = torch.tensor([0.5**0.5, 0.5**0.5])
    by_hand = [
        F.normalize(0.75 * torch.tensor([0.0, 1.0]) + 0.25 * mean, dim=0),
        torch.tensor([0.6, 0.8]),
        mean * torch.tensor([1.0, -1.0]),
    ]
    torch.testing.assert_close(prototypes, torch.stack(by_hand))
    assert seen.tolist() == [1.0, 1.0, 1.0]


def test_the_structure_loss_by_hand():
    """Only the first and the third class count. Images of class 1 and 0."""
    anchors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    prototypes, images = torch.eye(2)[[1, 0, 0]], torch.tensor([[0.0, 1.0], [0.8, 0.6]])
    found = structure_loss(images, prototypes, anchors, torch.tensor([0.1, 0.0, 1.0]), torch.tensor([1, 0]))
    by_hand = [(1.0 - 0.6) ** 2, (0.0 - 0.8) ** 2, (0.6 - 1.0) ** 2, (0.8 - 0.0) ** 2]
    assert found.item() == pytest.approx(sum(by_hand) / 4)


# --------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("label_space", ["all", "own"])
def test_one_step_is_the_gradient_of_the_formula(clip_setup, toy_task, label_space):
    """The client holds classes 2 and 3; somebody has seen 0 and 3, nobody 1 and 2."""
    backbone, data = clip_setup.backbone, toy_task.clients[2]
    method = make(clip_setup, structure=3.0, prototype_momentum=0.6, label_space=label_space, **ONE_STEP)
    begin = method.init_shared()
    begin = PromptState({**begin, "seen": torch.tensor([0.3, 0.0, 0.0, 1.0])})
    update, kept = method.train(Broadcast(1, begin), data, NO_PROMPT)
    assert kept == NO_PROMPT

    visual = begin["visual"].clone().requires_grad_(True)
    texts = [F.normalize(backbone.encode_text(list(ATTRIBUTES[name])), dim=-1) for name in toy_task.base_classes]
    anchors = F.normalize(torch.stack([some.mean(0) for some in texts]), dim=-1)
    pixels = clip_setup.features.pixels(data.train)
    x = F.normalize(backbone.encode_prompted_images(pixels, visual[0], visual[1:]).features, dim=-1)
    means = {c: F.normalize(x[data.train.labels == c].mean(0), dim=-1).detach() for c in (2, 3)}
    prototypes = torch.stack([anchors[0], anchors[1], means[2], F.normalize(0.6 * anchors[3] + 0.4 * means[3], dim=-1)])
    counted = [0, 2, 3]
    wanted = (anchors @ anchors.T)[data.train.labels][:, counted]
    names = [0, 1, 2, 3] if label_space == "all" else [2, 3]
    answers = data.train.labels - (0 if label_space == "all" else 2)
    loss = F.cross_entropy(backbone.logit_scale * x @ anchors[names].T, answers)
    loss = loss + 3.0 * F.mse_loss(x @ prototypes[counted].T, wanted)
    loss.backward()
    assert update.loss == pytest.approx(loss.item(), abs=1e-4)
    torch.testing.assert_close(update.shared["visual"], begin["visual"] - 0.5 * visual.grad, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(update.shared["prototypes"], prototypes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(update.shared["seen"], torch.tensor([0.3, 0.0, 1.0, 1.0]))
    assert visual.grad.flatten(1).abs().amax(1).min() > 0, "tokens of every depth are trained"


def test_prototypes_are_averaged_and_a_class_stays_seen(clip_setup, toy_task):
    fed = federation(make(clip_setup), toy_task)
    start = fed.start()
    assert start.shared["seen"].tolist() == [0, 0, 0, 0]
    state, replies = fed.run_round(start)
    assert not any(reply.failure for reply in replies)
    sent = [reply.update.shared["prototypes"] for reply in replies]
    torch.testing.assert_close(state.shared["prototypes"], (3 * sent[0] + 4 * sent[1] + 10 * sent[2]) / 17)
    torch.testing.assert_close(sent[0][1:], start.shared["prototypes"][1:])
    assert not torch.equal(sent[0][0], start.shared["prototypes"][0])
    assert (state.shared["seen"] > 0).all(), "every class is held by somebody"


def test_clients_side_by_side_learn_what_they_learn_alone(clip_setup, toy_task):
    method = make(clip_setup, batch_size=3, lr=0.05)
    broadcast = Broadcast(1, method.init_shared())
    jobs = [(broadcast, data, NO_PROMPT) for data in toy_task.clients]
    for (update, _), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, _ = method.train(*job)
        assert (update.shared - alone.shared).norm() < 1e-4


def test_a_federation_from_a_checkpoint_ends_with_the_same_bits(clip_setup, toy_task, tmp_path):
    fed = federation(make(clip_setup), toy_task)
    first, _ = fed.run_round(fed.start())
    whole, _ = fed.run_round(first)
    save_checkpoint(tmp_path, first, events_bytes=0)
    again, _ = federation(make(clip_setup), toy_task).run_round(load_checkpoint(tmp_path).state)
    assert whole.shared.sha256() == again.shared.sha256()


# ------------------------------------------------------------------------------------------------- prediction


def test_scores_are_cosines_of_prompted_images_to_the_anchors_of_any_names(clip_setup, toy_task):
    method = make(clip_setup, attributes="templates", depth=1)
    shared = method.init_shared()
    assert shared["visual"].shape == (1, 2, 16)
    names = ["pink", "red"]
    found = method.logits(shared, NO_PROMPT, names, toy_task.base_test)
    pixels = clip_setup.features.pixels(toy_task.base_test)
    images = clip_setup.backbone.encode_prompted_images(pixels, shared["visual"][0]).features
    texts = [[template.format(name) for template in clip_setup.templates] for name in names]
    anchors = torch.stack([F.normalize(clip_setup.backbone.encode_text(some), dim=-1).mean(0) for some in texts])
    by_hand = clip_setup.backbone.logit_scale * F.normalize(images, dim=-1) @ F.normalize(anchors, dim=-1).T
    torch.testing.assert_close(found, by_hand, atol=1e-3, rtol=1e-3)


def test_a_newcomer_with_other_classes_has_no_prototypes_of_them(clip_setup):
    assert bound_to_classes(make(clip_setup, attributes="templates"), clip_setup, "fedmap")


# ----------------------------------------------------------------------------------------------------- errors


def test_a_depth_that_the_tower_has_not_is_refused_with_the_way_out(clip_setup):
    with pytest.raises(ConfigError, match=r"'depth' is 9.*has 3 blocks.*--set method\.depth=3") as caught:
        build_method("fedmap", {"depth": 9}, clip_setup)
    assert "\n" not in str(caught.value)
