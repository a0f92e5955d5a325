"""Every method whose clients take gradient steps: gradients summed over batches, and softmaxes over some classes."""

from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.local_training import GradientMethod
from promptfed.method import METHODS
from promptfed.types import Broadcast

SGD = {"optimizer": "sgd", "momentum": 0, "lr": 0.05, "local_epochs": 1, "schedule": "constant"}
REFUSES = dict.fromkeys(("fedclip", "fedmap", "fedmvp", "pfedpg"), "encode no class names")


@pytest.fixture(params=sorted(name for name in METHODS if issubclass(METHODS[name], GradientMethod)))
def name(request):
    return request.param


@pytest.fixture
def trained(request, toy_task, name):
    """``trained(**options)``: what the client with two classes sends and keeps after a round."""

    needs = METHODS[name].requires
    simplest = "setup" if not needs else "promptable_setup" if needs == {"visual prompts"} else "clip_setup"
    special = {
        "pfedpg": "promptable_setup",
        "fedmgp": "promptable_setup",
        "fedmap": "clip_setup",
        "fedmvp": "clip_setup",
    }
    setup = request.getfixturevalue(special.get(name, simplest))

    def train(**options):
        small = {key: 2 for key in ("n_ctx", "n_visual") if key in METHODS[name].Config.model_fields}
        more = {"n_private": 1} if name == "fedper" else {"label_space": "all"} if name == "fedtpg" else {}
        method = build_method(name, {**SGD, **small, **more, **options}, setup)
        data = toy_task.clients[2]
        server, shared = method.server_side(Mean(Mean.Config())), method.init_shared()
        sent = Broadcast(1, server.broadcast(shared, server.init(shared), 2))
        update, personal = method.train(sent, data, method.init_personal(2))
        return {**update.shared, **{f"personal/{key}": value for key, value in personal.items()}}

    return train


def test_batches_that_share_a_pass_are_one_large_batch(trained):
    """Their gradients are summed: the step is that of the large batch, to rounding."""
    whole, parts = trained(batch_size=8), trained(batch_size=2, accumulate=4)
    assert whole.keys() == parts.keys()
    for key, value in whole.items():
        assert torch.allclose(value.float(), parts[key].float(), atol=2e-5, rtol=1e-4), key


def test_a_sample_of_classes_trains_or_is_refused_in_one_line(trained, name):
    if name in REFUSES:
        with pytest.raises(ConfigError, match=REFUSES[name]) as caught:
            trained(class_sample=1)
        assert "\n" not in str(caught.value)
        return
    every = trained(batch_size=3)
    some = trained(batch_size=3, class_sample=1)
    assert every.keys() == some.keys()
    floats = [key for key, value in every.items() if value.is_floating_point()]
    assert all(torch.isfinite(some[key]).all() for key in floats)
    assert any(not torch.equal(every[key], some[key]) for key in floats), "the loss is another one"
    enough = trained(batch_size=3, class_sample=4)
    assert all(torch.equal(every[key], enough[key]) for key in every), "with all classes drawn it is the same one"
