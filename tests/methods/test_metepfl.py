"""MetePFL: its gradient by differences, its tokens by hand, and what they win on made-up fronts."""

from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.errors import ConfigError
from promptfed.measures.base import build_measure
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt

from ..small_series import method_of, setup_of, task_of


@pytest.fixture(scope="module")
def plain():
    task = task_of()
    return task, setup_of(task)


@pytest.fixture(scope="module")
def seen():
    task = task_of(neighbours=3)
    return task, setup_of(task)


def test_its_gradient_is_the_difference_of_losses(seen):
    task, setup = seen
    method = method_of("metepfl", setup)
    generator = torch.Generator().manual_seed(1)
    method.model.network.double()
    try:
        start = PromptState({n: t + 0.1 * torch.randn(t.shape, generator=generator)
                             for n, t in method.init_shared().items()})  # fmt: skip
        windows = method.model.encode_series(task.clients[0].train.items[:4])
        windows = type(windows)(windows.past.double(), windows.future.double(), windows.context.double(), {})

        def loss(tensors):
            return method.error(method.quantiles(tensors, windows), windows.future)

        tensors = {name: tensor.double().requires_grad_() for name, tensor in start.items()}
        loss(tensors).backward()
        for name, place in (("temporal", (0, 3)), ("variable", (1, 5)), ("context", (1, 2, 4))):
            sides = []
            for step in (1e-5, -1e-5):
                moved = {n: t.detach().clone() for n, t in tensors.items()}
                moved[name][place] += step
                sides.append(loss(moved).item())
            difference = (sides[0] - sides[1]) / 2e-5
            assert tensors[name].grad[place].item() == pytest.approx(difference, rel=1e-4, abs=1e-9)
    finally:
        method.model.network.float()


def test_there_is_no_batch_dimension(plain):
    task, setup = plain
    method = method_of("metepfl", setup)
    assert {name: tuple(t.shape) for name, t in method.init_shared().items()} == {
        "temporal": (2, 24), "variable": (2, 24),
    }  # fmt: skip
    shared = PromptState({"temporal": torch.randn(2, 24), "variable": torch.randn(2, 24)})
    together = method.logits(shared, NO_PROMPT, (), task.base_test)
    assert together.shape == (len(task.base_test), 5)
    one = type(task.base_test)(task.base_test.items[7:8], task.base_test.labels[7:8])
    torch.testing.assert_close(method.logits(shared, NO_PROMPT, (), one), together[7:8], atol=1e-5, rtol=1e-4)


def test_a_token_sees_what_was_measured_some_steps_before_its_own_time(seen):
    task, setup = seen
    method = method_of("metepfl", setup, lags=6)
    windows = method.model.encode_series(task.clients[2].train.items[:3])
    weights = torch.zeros(2, 6, 6)
    weights[0, 4, 5] = 2.0  # of variable 0: series 4, six steps before
    made = method._from_context({"context": weights}, windows)
    for step in range(24):
        ago = 6 - (step + 1)  # steps before now
        expected = 2 * windows.context[:, 4, -1 - ago] if ago >= 0 else torch.zeros(3)
        torch.testing.assert_close(made[:, 0, step], expected)
    assert not made[:, 1].any()


def test_dropmask_leaves_out_about_its_share_in_runs(plain):
    method = method_of("metepfl", plain[1], mask_ratio=0.15)
    kept = torch.cat([method._kept(torch.Size((50, 200)), torch.Generator().manual_seed(k)) for k in range(4)])
    dropped = ~kept
    assert dropped.float().mean().item() == pytest.approx(0.15, abs=0.02)
    starts = dropped[:, 1:] & ~dropped[:, :-1]
    assert (dropped[:, 1:].sum() / starts.sum()).item() == pytest.approx(3, abs=0.4)
    assert method.stream(1, 0) is not None
    assert method_of("metepfl", plain[1]).stream(1, 0) is None


def test_a_mean_of_forecasts_is_mixed_and_not_of_scores(plain):
    task, setup = plain
    method = method_of("metepfl", setup)
    tuned = PromptState({"temporal": torch.ones(2, 24), "variable": torch.full((2, 24), -2.0)})
    ends = [
        method.client_logits(ClientPrompt(method.init_shared(), tuned=tuned, alpha=a), (), task.base_test)
        for a in (0.0, 0.5, 1.0)
    ]
    assert torch.isin(ends[1][:, :2], torch.tensor([0.0, 1.0])).all()
    assert not torch.allclose(ends[1], (ends[0] + ends[2]) / 2)


@pytest.mark.parametrize(("options", "words"), [
    ({"context": "neighbours"}, "task.neighbours=3"),
    ({"context": "both"}, "shows no neighbours"),
])  # fmt: skip
def test_a_context_that_is_not_shown_is_refused(plain, options, words):
    with pytest.raises(ConfigError, match=words):
        method_of("metepfl", plain[1], **options)


def trained(task, setup, name="metepfl", rounds=10, **options):
    """Return the method and what the federation reaches with the plain mean."""
    method, mean = method_of(name, setup, **options), Mean(Mean.Config())
    shared = method.init_shared()
    for round in range(1, rounds + 1):
        updates = [method.train(Broadcast(round, shared), client, NO_PROMPT)[0] for client in task.clients]
        shared, _ = mean.apply(shared, updates, NO_PROMPT)
    return method, shared


def mae_of(method, shared, split):
    return build_measure("mae").figure(method.logits(shared, NO_PROMPT, (), split), split.labels)


@pytest.mark.slow
def test_prompts_beat_the_model_alone_and_neighbours_help_more(plain, seen):
    task, setup = plain
    alone = build_measure("mae").figure(
        setup.model.template_scores("", task.base_test, task.base_classes), task.base_test.labels
    )
    without = mae_of(*trained(task, setup), task.base_test)
    with_neighbours = mae_of(*trained(*seen), seen[0].base_test)
    assert without <= 0.95 * alone
    assert with_neighbours <= 0.90 * alone
    assert with_neighbours < without
