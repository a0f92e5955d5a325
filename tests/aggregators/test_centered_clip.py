from __future__ import annotations

import numpy as np
import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.prompt_state import PromptState


def test_by_hand(state, merge):
    # From v = 0 the changes (3, 4) and (0, 1) are cut to length 1: the mean of (0.6, 0.8) and (0, 1).
    found = merge("centered_clip", state(1, 1), [state(4, 5), state(1, 2)], tau=1)["ctx"]
    torch.testing.assert_close(found, torch.tensor([1 + 0.3, 1 + 0.9]))


def test_the_centre_is_remembered(state, send):
    rule = build_aggregator("centered_clip", {"tau": 1.0})
    updates = [send(0, state(10)), send(1, state(10))]
    shared, server = rule.apply(state(0), updates, rule.init(state(0)))
    assert shared == state(1)
    assert server["center/ctx"].tolist() == [1]
    shared, server = rule.apply(shared, updates, server)  # a change of 9, which is 8 from the centre of 1
    assert shared == state(1 + 2)
    assert server["center/ctx"].tolist() == [2]


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("tau", [0.05, 0.4, None])
def test_the_same_as_a_plain_loop(iterations, tau, crowd, send):
    shared, prompts, _ = crowd
    rule = build_aggregator("centered_clip", {"tau": tau, "iterations": iterations})
    flat = [np.concatenate([(p[n].double() - shared[n].double()).numpy().ravel() for n in "ab"]) for p in prompts]
    center = np.zeros(17)
    for _ in range(iterations):
        offsets = [row - center for row in flat]
        limit = np.median([np.linalg.norm(o) for o in offsets]) if tau is None else tau
        center = center + np.mean([o * min(1, limit / np.linalg.norm(o)) for o in offsets], axis=0)
    merged, server = rule.apply(shared, [send(i, p) for i, p in enumerate(prompts)], rule.init(shared))
    np.testing.assert_allclose(torch.cat([server["center/a"].flatten(), server["center/b"]]), center, atol=1e-7)
    for name in "ab":
        torch.testing.assert_close(merged[name], shared[name] + server[f"center/{name}"])


def test_one_client_moves_the_centre_by_its_share_of_tau(state, merge):
    honest = [state(0, 0)] * 9
    found = merge("centered_clip", state(0, 0), [*honest, state(1e6, 0)], tau=2)
    torch.testing.assert_close(found["ctx"], torch.tensor([0.2, 0]))


def test_what_few_sent_is_merged_over_them_and_the_rest_stays(send):
    shared = PromptState({"a": torch.zeros(1), "b": torch.zeros(1), "c": torch.zeros(1)})
    updates = [
        send(0, PromptState({"a": torch.ones(1), "b": torch.ones(1)})),
        send(1, PromptState({"a": torch.ones(1)})),
    ]
    rule = build_aggregator("centered_clip", {"tau": 10.0})
    server = PromptState({**rule.init(shared), "center/c": torch.ones(1)})
    merged, after = rule.apply(shared, updates, server)
    assert [merged[name].item() for name in "abc"] == [1, 1, 0]
    assert [after[f"center/{name}"].item() for name in "abc"] == [1, 1, 1]
