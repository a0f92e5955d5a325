from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.class_sample import ClassSample
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import BackboneError, ConfigError
from promptfed.federation import Federation
from promptfed.methods.fedpha import FedPHA, FedPHAConfig, pulled, pushed_apart, strong_directions, without
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt

ONE_STEP = {
    "optimizer": "sgd", "momentum": 0, "lr": 0.3, "schedule": "constant", "local_epochs": 1, "batch_size": 100,
}  # fmt: skip


def make(setup, **options):
    return FedPHA(FedPHAConfig(**{"n_ctx": 3, **options}), setup)


def federation(method, task):
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, task)), range(3))


def features(setup, ctx, names):
    return F.normalize(setup.backbone.encode_prompted_text(ctx, setup.backbone.class_tokens(names, len(ctx))), dim=-1)


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


# ------------------------------------------------------------------------------------------- formulas by hand


def test_the_projection_by_hand():
    """Singular values 4, 3, 2 along y, x and w. Of three, a ratio of 0.6 cuts off the strongest one."""
    shared = torch.tensor([[3.0, 0, 0, 0, 0], [0, 4.0, 0, 0, 0], [0, 0, 0, 2.0, 0]])
    local = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [0, 1.0, 0, 0, 0]])
    rest = without(local, *strong_directions(shared, 0.6, "complement"))
    assert torch.allclose(rest, torch.tensor([[1.0, 0, 3.0, 4.0, 5.0], [0, 0, 0, 0, 0]]), atol=1e-6)
    weak = without(local, *strong_directions(shared, 0.6, "weak"))
    assert torch.allclose(weak, torch.tensor([[1.0, 0, 0, 4.0, 0], [0, 0, 0, 0, 0]]), atol=1e-6)


def test_both_projections_agree_on_what_the_shared_context_spans():
    shared = noise(6, 9)
    spanned, ratio = noise(4, 6) @ shared, 0.5
    found = [without(spanned, *strong_directions(shared, ratio, kind)) for kind in ("complement", "weak")]
    assert torch.allclose(found[0], found[1], atol=1e-4)
    assert (found[0] - spanned).norm() > 1


@pytest.mark.parametrize(("rows", "ratio", "strong"), [(16, 0.8, 3), (5, 0.8, 1), (10, 0.9, 1), (4, 1, 0), (4, 0, 4)])
def test_a_whole_number_of_directions_is_not_lost_by_rounding(rows, ratio, strong):
    assert len(strong_directions(noise(rows, 20), ratio, "complement")[0]) == strong
    assert len(strong_directions(noise(rows, 20), ratio, "weak")[0]) == rows - strong


def test_pull_and_push_by_hand():
    """Unit features 2 and sqrt(2) apart, and 0 apart; the push asks for a distance of 1.5."""
    x, y = torch.eye(2)
    local, other = torch.stack([x, x, y]), torch.stack([-x, y, y])
    assert pulled(local, other).item() == pytest.approx((4 / 2 + 2 / 2 + 0) / 3)
    assert pushed_apart(local, other, 1.5).item() == pytest.approx((0 + 1.5 - math.sqrt(2) + 1.5) / 3)
    sample = ClassSample(torch.tensor([0, 2]), torch.tensor([0.0, math.log(2)]))
    some = torch.tensor([0, 2])
    assert pulled(local[some], other[some], sample).item() == pytest.approx((2 + 2 * 0) / 3)


def test_equal_features_are_pushed_nowhere_and_nothing_is_nan():
    local = torch.eye(2).requires_grad_(True)
    pushed_apart(local, torch.eye(2), 1.0).backward()
    assert local.grad.abs().max() == 0


# --------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("projection", ["complement", "weak"])
def test_one_sgd_step_is_the_gradient_of_the_formula_in_both_contexts(setup, toy_task, projection):
    more = {"ratio": 0.4, "pull": 3.0, "push": 0.7, "distance": 1.8, "projection": projection}
    method, data = make(setup, local_lengths=(2,), **more, **ONE_STEP), toy_task.clients[2]
    start, kept = method.init_shared(), PromptState({"local": 0.5 * noise(2, 4)})
    update, new = method.train(Broadcast(1, start), data, kept)

    shared, local = (state.clone().requires_grad_(True) for state in (start["ctx"], kept["local"]))
    names = toy_task.base_classes
    _, _, v = torch.svd(start["ctx"])
    keeps = torch.eye(4) - v[:, :1] @ v[:, :1].T if projection == "complement" else v[:, 1:] @ v[:, 1:].T
    of_local, common, projected = (features(setup, ctx, names) for ctx in (local, shared, local @ keeps))
    images = F.normalize(setup.features.images(data.train), dim=-1)
    loss = sum(F.cross_entropy(10 * images @ texts.T, data.train.labels) for texts in (of_local, common))
    loss = loss + 3.0 * F.mse_loss(of_local, projected)
    loss = loss + 0.7 * F.relu(1.8 - torch.linalg.vector_norm(of_local - common, dim=-1)).mean()
    loss.backward()
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)
    assert torch.allclose(update.shared["ctx"], start["ctx"] - 0.3 * shared.grad, atol=1e-6)
    assert torch.allclose(new["local"], kept["local"] - 0.3 * local.grad, atol=1e-6)
    assert local.grad.abs().max() > 0


def test_without_pull_and_push_what_is_sent_is_promptfls(setup, toy_task):
    method = make(setup, pull=0, push=0, local_lengths=(5,))
    plain = PromptFL(PromptFLConfig(n_ctx=3), setup)
    for data in toy_task.clients:
        ours, _ = method.train(Broadcast(1, method.init_shared()), data, NO_PROMPT)
        theirs, _ = plain.train(Broadcast(1, plain.init_shared()), data, NO_PROMPT)
        assert torch.allclose(ours.shared["ctx"], theirs.shared["ctx"], atol=1e-5)


def test_clients_of_other_lengths_federate(setup, toy_task):
    """The first and the third client have 2 and 7 tokens beside the shared context's 3."""
    method = make(setup, local_lengths=(2, 3, 7))
    fed = federation(method, toy_task)
    first, replies = fed.run_round(fed.start())
    assert not any(reply.failure for reply in replies)
    assert {tuple(reply.update.shared["ctx"].shape) for reply in replies} == {(3, 4)}
    assert [tuple(first.personal[client]["local"].shape) for client in range(3)] == [(2, 4), (3, 4), (7, 4)]
    total = sum(reply.update.samples * reply.update.shared["ctx"] for reply in replies)
    by_hand = total / sum(reply.update.samples for reply in replies)
    assert torch.allclose(first.shared["ctx"], by_hand, atol=1e-6)
    second, _ = fed.run_round(first)
    _, alone = method.train(Broadcast(2, first.shared), toy_task.clients[2], first.personal[2])
    assert second.personal[2] == alone, "it goes on from where it was"


def test_clients_of_other_lengths_learn_side_by_side_what_they_learn_alone(setup, toy_task):
    method = make(setup, batch_size=3, local_lengths=(6, 2))
    broadcast = Broadcast(1, method.init_shared())
    jobs = [(broadcast, data, NO_PROMPT) for data in toy_task.clients]
    for (update, kept), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, alone_kept = method.train(*job)
        assert torch.allclose(update.shared["ctx"], alone.shared["ctx"], atol=1e-5)
        assert torch.allclose(kept["local"], alone_kept["local"], atol=1e-5)


def test_local_contexts_start_from_the_same_noise_and_words(setup):
    method = make(setup)
    assert torch.equal(method.local_start(7)[:2], method.local_start(2))
    assert not torch.equal(method.local_start(3), method.init_shared()["ctx"])
    words = make(setup, init="owl")
    assert torch.equal(words.local_start(5)[:3], setup.backbone.embed_words("owl"))
    assert torch.equal(words.local_start(2), setup.backbone.embed_words("ow"))


def test_a_federation_from_a_checkpoint_ends_with_the_same_bits(setup, toy_task, tmp_path):
    def fed():
        return federation(make(setup, local_lengths=(2, 5)), toy_task)

    first, _ = fed().run_round(fed().start())
    whole, _ = fed().run_round(first)
    save_checkpoint(tmp_path, first, events_bytes=0)
    resumed, _ = fed().run_round(load_checkpoint(tmp_path).state)
    assert resumed.shared.sha256() == whole.shared.sha256()
    for client in range(3):
        assert resumed.personal[client].sha256() == whole.personal[client].sha256()


# ------------------------------------------------------------------------------------------------- prediction


def test_a_client_predicts_with_its_local_context_and_a_newcomer_with_the_shared_one(setup):
    method, names = make(setup, local_lengths=(5,)), ["pink", "red", "cyan"]
    shared, personal = method.init_shared(), PromptState({"local": noise(5, 4)})
    found = method.class_features(shared, personal, names)
    assert torch.allclose(found, features(setup, personal["local"], names), atol=1e-6)
    newcomer = method.class_features(shared, NO_PROMPT, names)
    assert torch.allclose(newcomer, features(setup, shared["ctx"], names), atol=1e-6)


def test_contexts_of_one_length_have_a_path_between_them(setup):
    method, names = make(setup), ["pink", "red"]
    shared, personal = method.init_shared(), PromptState({"local": noise(3, 4)})
    quarter = method.client_features(ClientPrompt(shared, personal, 0.25, "prompt"), names)
    between = 0.75 * shared["ctx"] + 0.25 * personal["local"]
    assert torch.allclose(quarter, features(setup, between, names), atol=1e-6)
    with pytest.raises(ConfigError, match="use feature space"):
        method.client_features(ClientPrompt(shared, PromptState({"local": noise(2, 4)}), 0.25, "prompt"), names)


# ---------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(("given", "lengths"), [("4, 8,16", (4, 8, 16)), (5, (5,)), ([2, 3], (2, 3)), ("", ())])
def test_lengths_are_a_list_of_any_kind(given, lengths):
    assert FedPHAConfig(local_lengths=given).local_lengths == lengths


@pytest.mark.parametrize(
    ("given", "message"), [("4,0", "from 1 to 64"), ("65", "from 1 to 64"), ("x", "local_lengths")]
)
def test_other_lengths_are_refused_in_one_line(setup, given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_method("fedpha", {"local_lengths": given}, setup)
    assert "\n" not in str(caught.value)


def test_a_length_that_the_tower_cannot_read_is_refused_before_training(clip_setup):
    with pytest.raises(BackboneError, match="with 64 context tokens"):
        make(clip_setup, local_lengths=(4, 64))
