"""What a method computes does not depend on the device, and its tensors do not meet those of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from promptfed.aggregators.base import build_aggregator
from promptfed.build_method import build_method
from promptfed.config import build_config
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.evaluation import evaluate
from promptfed.export.bundle import Bundle, check_model, make_bundle
from promptfed.federation import Federation
from promptfed.local_training import GradientMethod
from promptfed.measures.base import build_measures
from promptfed.method import METHODS, Method
from promptfed.prompt_state import PromptState
from promptfed.resolve import complete
from promptfed.setup import Setup
from promptfed.types import ClientPrompt, FederatedTask, FederationState

FAST = {"promptfl"}
NAMES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in sorted(METHODS)
    if issubclass(METHODS[name], GradientMethod)
]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
MORE: dict[str, dict[str, Any]] = {"fedtpg": {"prompt_depth": 2, "heads": 2}, "kgcoop": {"class_specific": True}}
"""Options that lead through more of the code than the defaults."""


def method_on(name: str, setup: Setup) -> Method:
    """``name`` with plain SGD: Adam would make a whole step of what is rounding where a gradient is zero."""
    options = {"optimizer": "sgd", "lr": 0.05, "local_epochs": 1, "batch_size": 3}
    return build_method(name, {**options, **MORE.get(name, {})}, setup)


def two_rounds(method: Method, task: FederatedTask) -> tuple[Federation, FederationState]:
    config = complete(build_config({"method": next(n for n in METHODS if METHODS[n] is type(method))}))
    aggregator = build_aggregator(config.aggregator or "mean", config.aggregator_options)
    federation = Federation(method, aggregator, LocalEngine(ClientWorker(method, task), client_batch=2), range(3))
    state = federation.start()
    for _ in range(2):
        state, replies = federation.run_round(state)
        assert not [reply.failure for reply in replies if reply.failure]
    return federation, state


def prompts_of(federation: Federation, state: FederationState, task: FederatedTask) -> dict[int, ClientPrompt]:
    return {data.client: federation.prompt(state, data.client) for data in task.clients}


def assert_close(one: PromptState, other: PromptState) -> None:
    assert list(one) == list(other)
    for name in one:
        assert other[name].device.type == "cpu"
        torch.testing.assert_close(other[name], one[name], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_rounds_scores_and_bundles(
    name: str, device: str, clip_on: Callable[..., Setup], toy_task: FederatedTask
) -> None:
    here, there = method_on(name, clip_on("cpu")), method_on(name, clip_on(device))
    (federation, state), (_, state_there) = two_rounds(here, toy_task), two_rounds(there, toy_task)
    assert_close(state.shared, state_there.shared)
    for client in range(3):
        assert_close(state.personal[client], state_there.personal[client])

    prompts = prompts_of(federation, state, toy_task)
    names, split = (*toy_task.base_classes, *toy_task.new_classes), toy_task.base_test
    for client, prompt in prompts.items():
        scores, scores_there = (each.client_logits(prompt, names, split) for each in (here, there))
        torch.testing.assert_close(scores_there.cpu(), scores, rtol=1e-4, atol=1e-3)  # logits: cosines times 14
        assert_close(here.text_contexts(*here.ends(prompt)[0]), there.text_contexts(*there.ends(prompt)[0]))
        bundle, bundle_there = (bundle_of(each, prompt, client) for each in (here, there))
        check_model(bundle_there, here.setup.model)  # trained there, used here
        assert_close(*(PromptState({"features": features_of(each)}) for each in (bundle, bundle_there)))
    measures = build_measures(["nll", "macro_f1"])
    figures, figures_there = (evaluate(each, prompts, toy_task, measures).figures for each in (here, there))
    assert figures.base == pytest.approx(figures_there.base, abs=0.051)  # one of twenty may lie on the border
    assert figures.measures["nll"]["base"] == pytest.approx(figures_there.measures["nll"]["base"], abs=1e-3)
    there.setup.verify_frozen()


def bundle_of(method: Method, prompt: ClientPrompt, client: int) -> Bundle:
    name = next(n for n in METHODS if METHODS[n] is type(method))
    return make_bundle(build_config({"method": name}), method, prompt, client, "a", "images")


def features_of(bundle: Bundle) -> Tensor:
    assert bundle.class_features is not None
    assert bundle.contents()
    return bundle.class_features


@pytest.mark.slow
@pytest.mark.parametrize("name", ["promptfl", "maple"])
def test_a_narrow_tower_trains_float32_prompts(
    name: str, device: str, clip_on: Callable[..., Setup], toy_task: FederatedTask
) -> None:
    for precision in ("bfloat16", "float16"):
        method = method_on(name, clip_on(device, precision))
        start = method.init_shared()
        _, state = two_rounds(method, toy_task)
        assert {tensor.dtype for tensor in state.shared.values()} == {torch.float32}
        assert state.shared.is_finite()
        assert state.shared.mismatch(start) is None
        assert state.shared != start
        assert method.setup.features.images(toy_task.base_test).dtype == torch.float32
