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
from promptfed.methods.fedmvp import FedMVP, FedMVPConfig, PromptFormer
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint
from promptfed.types import NO_PROMPT, Broadcast

ONE_STEP = {
    "optimizer": "sgd", "momentum": 0, "lr": 0.1, "schedule": "constant", "local_epochs": 1, "batch_size": 100,
    "label_space": "all",
}  # fmt: skip
ATTRIBUTES = {"red": ("warm", "like blood"), "green": ("like grass",), "blue": ("sky", "sea"), "ochre": ("earth",)}


def make(setup, **options):
    return FedMVP(FedMVPConfig(**{"n_visual": 2, "heads": 2, "attributes": ATTRIBUTES, **options}), setup)


def federation(method, task):
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, task)), range(3))


def tokens_by_hand(leaf, patches, attributes, n, heads):
    """One image's tokens: attention written out, the feed-forward block, and means of neighbouring places."""
    width = patches.shape[1]

    def norm(x, name):
        return F.layer_norm(x, (width,), leaf[f"{name}.weight"], leaf[f"{name}.bias"])

    keys = norm(attributes @ leaf["linear.weight"].T + leaf["linear.bias"], "attend.norm_context")
    query = norm(patches, "attend.norm")
    packed = zip(leaf["attend.fn.in_proj_weight"].chunk(3), leaf["attend.fn.in_proj_bias"].chunk(3), strict=True)
    q, k, v = (x @ w.T + b for x, (w, b) in zip((query, keys, keys), packed, strict=True))
    parts = []
    for head in range(heads):
        some = slice(head * width // heads, (head + 1) * width // heads)
        weights = (q[:, some] @ k[:, some].T / (width // heads) ** 0.5).softmax(-1)
        parts.append(weights @ v[:, some])
    y = torch.cat(parts, -1) @ leaf["attend.fn.out_proj.weight"].T + leaf["attend.fn.out_proj.bias"]
    value, gate = (norm(y, "feed.net.0") @ leaf["feed.net.1.weight"].T + leaf["feed.net.1.bias"]).chunk(2, -1)
    y = y + (value * F.gelu(gate)) @ leaf["feed.net.3.weight"].T + leaf["feed.net.3.bias"]
    return torch.stack([part.mean(0) for part in y.chunk(n)])


def test_the_network_by_hand():
    torch.manual_seed(0)
    net = PromptFormer(8, 5, 2, 2)
    patches, attributes = torch.randn(3, 4, 8), torch.randn(6, 5)
    leaf = dict(net.named_parameters())
    expected = torch.stack([tokens_by_hand(leaf, image, attributes, 2, 2) for image in patches])
    torch.testing.assert_close(net(patches, attributes), expected, atol=1e-5, rtol=1e-4)
    shuffled = attributes[torch.tensor([3, 0, 5, 1, 2, 4])]
    torch.testing.assert_close(net(patches, shuffled), expected, atol=1e-5, rtol=1e-4)


def test_the_backbone_s_patches_are_what_its_first_block_normalises(clip_setup, toy_task):
    backbone = clip_setup.backbone
    pixels = clip_setup.features.pixels(toy_task.base_test)[:3]
    patches = backbone.embed_patches(pixels)
    assert patches.shape == (3, 4, 16), "16 pixels in patches of 8"
    visual = backbone._model.visual
    grid = F.conv2d(pixels, visual.conv1.weight, stride=8).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches, grid + visual.positional_embedding[1:], atol=1e-5, rtol=1e-4)
    each = torch.randn(3, 2, 16)
    together = backbone.encode_prompted_images(pixels, each).features
    alone = torch.cat([backbone.encode_prompted_images(pixels[i : i + 1], each[i]).features for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_one_step_is_the_gradient_of_the_formula(clip_setup, toy_task):
    method, data, backbone = make(clip_setup, consistency=3.0, **ONE_STEP), toy_task.clients[2], clip_setup.backbone
    shared = method.init_shared()
    update, kept = method.train(Broadcast(1, shared), data, NO_PROMPT)
    assert kept == NO_PROMPT

    leaf = {name: tensor.clone().requires_grad_(True) for name, tensor in shared.items()}
    texts = [F.normalize(backbone.encode_text(list(ATTRIBUTES[name])), dim=-1) for name in toy_task.base_classes]
    classes = F.normalize(torch.stack([some.mean(0) for some in texts]), dim=-1)
    pixels = clip_setup.features.pixels(data.train)
    patches = backbone.embed_patches(pixels)
    tokens = torch.stack([tokens_by_hand(leaf, image, torch.cat(texts), 2, 2) for image in patches])
    images = F.normalize(backbone.encode_prompted_images(pixels, tokens).features, dim=-1)
    frozen = F.normalize(backbone.encode_images(pixels), dim=-1)
    of_class = F.cross_entropy(backbone.logit_scale * images @ classes.T, data.train.labels)
    loss = of_class + 3.0 * (1 - (images * frozen).sum(-1).mean())
    loss.backward()
    assert update.loss == pytest.approx(loss.item(), abs=1e-4)
    for name, tensor in leaf.items():
        torch.testing.assert_close(update.shared[name], tensor.detach() - 0.1 * tensor.grad, atol=1e-4, rtol=1e-3)
    assert leaf["linear.weight"].grad.abs().max() > 1e-5


def test_every_batch_takes_a_step(clip_setup, toy_task):
    """The released code steps once, after the loop, on the last batch."""
    options = {**ONE_STEP, "batch_size": 5}
    method, data = make(clip_setup, **options), toy_task.clients[2]
    calls = clip_setup.backbone.calls
    method.attribute_features(toy_task.base_classes)
    clip_setup.features.images(data.train)
    before, texts = calls.images, calls.texts
    method.train(Broadcast(1, method.init_shared()), data, NO_PROMPT)
    assert calls.images - before == 10, "each image once; without patches"
    assert calls.texts == texts, "attributes are encoded once and for all"


def test_shapes_and_bytes_of_what_is_sent(clip_setup, toy_task):
    method = make(clip_setup)
    shared = method.init_shared()
    width, dim = 16, 12
    numbers = dim * width + width  # the projection
    numbers += 4 * width * width + 4 * width + 4 * width  # attention, and two normalisations
    numbers += 2 * width + width * 8 * width + 8 * width + 4 * width * width + width  # feed-forward
    assert sum(tensor.numel() for tensor in shared.values()) == numbers
    update, _ = method.train(Broadcast(1, shared), toy_task.clients[0], NO_PROMPT)
    assert {name: tuple(t.shape) for name, t in update.shared.items()} == method.uploads(0, shared)
    assert 4 * numbers <= update.shared.nbytes < 4 * numbers + 2000


def test_prediction_sees_the_set_of_classes_and_knows_new_ones(clip_setup, toy_task):
    method, split = make(clip_setup), toy_task.base_test
    shared = method.init_shared()
    names = toy_task.base_classes
    found = method.logits(shared, NO_PROMPT, names, split)
    assert found.shape == (len(split), 4)
    flipped = method.logits(shared, NO_PROMPT, names[::-1], split)
    torch.testing.assert_close(found, flipped.flip(1), atol=1e-4, rtol=1e-4)
    assert method.logits(shared, NO_PROMPT, toy_task.new_classes, toy_task.new_test).shape == (10, 2)
    assert not method.scores_apart


def test_a_federation_from_a_checkpoint_ends_with_the_same_bits(clip_setup, toy_task, tmp_path):
    method = make(clip_setup, batch_size=4)
    fed = federation(method, toy_task)
    state, replies = fed.run_round(fed.start())
    sent = [reply.update.shared["linear.weight"] for reply in replies]
    torch.testing.assert_close(state.shared["linear.weight"], (3 * sent[0] + 4 * sent[1] + 10 * sent[2]) / 17)
    save_checkpoint(tmp_path, state, events_bytes=0)
    whole, _ = fed.run_round(state)
    again, _ = federation(make(clip_setup, batch_size=4), toy_task).run_round(load_checkpoint(tmp_path).state)
    assert whole.shared == again.shared


def test_what_does_not_fit_is_refused_in_one_line(setup, clip_setup):
    with pytest.raises(ConfigError, match=r"fedmvp.*needs a backbone with visual prompts.*toy"):
        build_method("fedmvp", {}, setup)
    with pytest.raises(ConfigError, match=r"'heads' is 3, which does not divide the width 16"):
        make(clip_setup, heads=3)
    with pytest.raises(ConfigError, match=r"describes no 'green' \(3 of 4 classes"):
        make(clip_setup, attributes={"red": ("warm",)})
    with pytest.raises(ConfigError, match="a file is read when a run is set up"):
        make(clip_setup, attributes="file:a.json")
