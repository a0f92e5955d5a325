from __future__ import annotations

import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.method import MethodConfig
from promptfed.methods.zero_shot import ZeroShot
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT


def test_scores_are_the_pooled_validation_accuracy_of_each_template(setup, toy_task):
    method = ZeroShot(MethodConfig(), setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state, _ = fed.run_round(fed.start())
    pooled = []
    for template in toy_task.templates:
        texts = F.normalize(setup.backbone.encode_text([template.format(c) for c in toy_task.base_classes]), dim=-1)
        right = sum(
            int(((F.normalize(setup.features.images(c.val), dim=-1) @ texts.T).argmax(-1) == c.val.labels).sum())
            for c in toy_task.clients
        )
        pooled.append(right / sum(len(c.val) for c in toy_task.clients))
    assert torch.allclose(state.shared["accuracy"], torch.tensor(pooled))
    assert method.template(state.shared) == toy_task.templates[max(range(3), key=lambda i: pooled[i])]


def test_class_features_use_the_best_template(setup):
    method = ZeroShot(MethodConfig(), setup)
    chosen = PromptState({"accuracy": torch.tensor([0.1, 0.2, 0.9])})
    features = method.class_features(chosen, NO_PROMPT, ["red_dot"])
    assert torch.allclose(features, F.normalize(setup.backbone.encode_text(["the red dot"]), dim=-1))
    assert method.rounds == 1
