"""Choices on validation data read which way their measure is better."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.evaluation import validate
from promptfed.measures.base import build_measure
from promptfed.measures.selection import Selection
from promptfed.method import MethodConfig
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.methods.zero_shot import ZeroShot
from promptfed.personalize.interpolate import choose, client_curve
from promptfed.prompt_state import PromptState
from promptfed.types import Broadcast, ClientPrompt

ALPHAS = (0.0, 0.5, 1.0)


def test_a_measure_that_is_better_lower_is_minimised() -> None:
    figures = (0.9, 0.4, 0.4)
    assert choose(ALPHAS, figures, 8).alpha == 0.0
    lowest = choose(ALPHAS, figures, 8, Selection.of("nll"))
    assert (lowest.alpha, lowest.why) == (
        0.5,
        "NLL 0.400 nats on 8 validation images, the best of 3 values of alpha; the smallest of 2 that reach it",
    )
    assert Selection.of("nll").best([None, 2.0, 1.0]) == 2
    assert Selection.of("accuracy").best([None, 2.0, 1.0]) == 1
    with pytest.raises(ConfigError, match="'macro_f1' is no mean over examples"):
        Selection.of("macro_f1")


def test_every_choice_goes_by_the_measure_of_the_run(setup: Any, toy_task: Any) -> None:
    by_nll, measure = replace(setup, selection="nll"), build_measure("nll")
    method = PromptFL(PromptFLConfig(), by_nll)
    shared = method.init_shared()
    data = next(client for client in toy_task.clients if len(client.classes) > 1 and len(client.val))
    other = torch.randn(shared["ctx"].shape, generator=torch.Generator().manual_seed(5))
    prompt = ClientPrompt(shared, tuned=PromptState({"ctx": other}), space="prompt")

    curve = client_curve(method, prompt, ALPHAS, toy_task, data)
    names = [toy_task.base_classes[k] for k in data.classes]
    truth = torch.tensor([data.classes.index(k) for k in data.val.labels.tolist()])
    by_hand = [
        measure.figure(method.client_logits(replace(prompt, alpha=alpha), names, data.val), truth) for alpha in ALPHAS
    ]
    assert curve.choice.alpha == ALPHAS[by_hand.index(min(by_hand))]

    prompts = {client.client: ClientPrompt(shared) for client in toy_task.clients}
    figures = validate(method, prompts, toy_task)
    assert figures.hm == pytest.approx((figures.local + figures.base) / 2), "no harmonic mean of what is no share"

    zero_shot = ZeroShot(MethodConfig(), by_nll)
    update, _ = zero_shot.train(Broadcast(1, zero_shot.init_shared()), data, PromptState())
    scores = [by_nll.model.template_scores(text, data.val, toy_task.base_classes) for text in toy_task.templates]
    each = [measure.figure(logits, data.val.labels) for logits in scores]
    assert update.shared["merit"].tolist() == pytest.approx([-value for value in each])
    assert zero_shot.template(update.shared) == toy_task.templates[each.index(min(each))]
