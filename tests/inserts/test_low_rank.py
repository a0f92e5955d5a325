"""Tests of LoRA as an insert: which matrices it changes, what it starts from, and what PEFT is told."""

from __future__ import annotations

import math

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.inserts.low_rank import EVERY_LAYER, PERSONAL, RESIDUAL, A, B, LowRank, factor_name, matching_paths
from promptfed.low_rank import dense
from promptfed.prompt_state import PromptState

MATRICES = {
    "layers.0.self_attn.q_proj": (12, 8),
    "layers.0.self_attn.v_proj": (4, 8),
    "layers.0.mlp.up_proj": (16, 8),
    "layers.1.self_attn.q_proj": (12, 8),
}
Q = "layers.0.self_attn.q_proj"


def kind(**options: object) -> LowRank:
    return LowRank(MATRICES, ("q_proj", "v_proj"), 7, **{"r": 2, "alpha": 8.0, **options})  # type: ignore[arg-type]


def random_values(like: PromptState) -> PromptState:
    draw = torch.Generator().manual_seed(0)
    return PromptState({name: torch.randn(tensor.shape, generator=draw) for name, tensor in like.items()})


def test_targets_are_the_ends_of_paths() -> None:
    assert [path[-6:] for path in kind().paths] == ["q_proj", "v_proj", "q_proj"]
    assert matching_paths(MATRICES, ["1.self_attn.q_proj"]) == ("layers.1.self_attn.q_proj",)
    assert matching_paths(MATRICES, [EVERY_LAYER]) == tuple(MATRICES)


def test_a_target_without_a_layer_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'qproj'.*no linear layer.*use q_proj.*all-linear") as caught:
        kind().__class__(MATRICES, ("qproj",), 7)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="'roj'"):
        matching_paths(MATRICES, ["roj"])
    with pytest.raises(ConfigError, match="no usual ones"):
        LowRank(MATRICES, (), 7)


def test_the_start_is_the_frozen_model_with_peft_names() -> None:
    start = kind().start("lora")
    assert start[f"base_model.model.{Q}.lora_A.weight"].shape == (2, 8)
    assert start[f"base_model.model.{Q}.lora_B.weight"].shape == (12, 2)
    assert all(not tensor.any() for name, tensor in start.items() if "lora_B" in name)
    rows = start[factor_name(Q, A)]
    assert rows.any()
    assert rows.abs().max() <= 1 / math.sqrt(8)
    assert start == kind().start("lora")
    assert start != kind().start("other")
    assert torch.equal(kind(r=5).start("lora")[factor_name(Q, A)][:2], rows)  # rows do not depend on the rank


@pytest.mark.parametrize(
    ("options", "scales"),
    [({}, (4, 2)), ({"rank_stabilised": True}, (8 / math.sqrt(2), 4)), ({"common_scale": True}, (4, 4))],
)
def test_scales(options: dict[str, bool], scales: tuple[float, float]) -> None:
    assert (kind(**options).scale(2), kind(**options).scale(4)) == pytest.approx(scales)


def test_groups_of_factors_add_up_and_are_one_adapter_for_peft() -> None:
    lora = kind()
    values = random_values(
        PromptState(
            {
                **lora.start(),
                factor_name(Q, A, RESIDUAL): torch.zeros(3, 8),
                factor_name(Q, B, RESIDUAL): torch.zeros(12, 3),
                factor_name(Q, A, PERSONAL): torch.zeros(2, 8),
                factor_name(Q, B, PERSONAL): torch.zeros(12, 2),
            }
        )
    )
    insert = lora.insert(values)
    assert [change.scale for change in insert.low_rank[Q]] == [4, 1, 4]
    total = sum(dense(change) for change in insert.low_rank[Q])
    config, tensors = lora.peft_config(values), lora.peft_tensors(values)
    assert config["r"] == 7
    assert config["lora_alpha"] == 7
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert set(config["rank_pattern"].values()) == {2}
    assert set(config["alpha_pattern"].values()) == {8}
    exported = tensors[factor_name(Q, B)].double() @ tensors[factor_name(Q, A)].double()
    assert torch.allclose(exported, torch.as_tensor(total), atol=1e-5)
    assert set(tensors) == set(lora.start())


def test_gradients_flow_to_the_values() -> None:
    values = {name: tensor.clone().requires_grad_() for name, tensor in kind().start().items()}
    changes = kind().insert(values).low_rank
    torch.stack([change.b.sum() + change.a.sum() for parts in changes.values() for change in parts]).sum().backward()
    assert all(tensor.grad is not None for tensor in values.values())


@pytest.mark.parametrize("common_scale", [False, True])
def test_interpolation_is_that_of_the_models_not_of_the_factors(common_scale: bool) -> None:
    lora, head = kind(common_scale=common_scale), {"head.bias": torch.zeros(3)}
    start = PromptState({**random_values(lora.start()), **head})
    end = PromptState({**random_values(lora.start()).map(lambda t: t.flip(0)), "head.bias": torch.ones(3)})
    mixture = lora.interpolate(start, end, 0.25)
    assert lora.interpolate(start, end, 0) == start
    assert lora.interpolate(start, end, 1) == end
    assert mixture["head.bias"].tolist() == [0.25] * 3
    for path in lora.paths:
        ends = [dense(lora.factors(values, path)) for values in (start, end)]
        expected = 0.75 * ends[0] + 0.25 * ends[1]
        torch.testing.assert_close(dense(lora.factors(mixture, path)), expected, atol=1e-5, rtol=1e-5)
        naive = dense(lora.factors(start.interpolate(end, 0.25), path))
        assert (naive - expected).norm() > 0.1 * expected.norm()


def test_interpolation_with_a_common_a_keeps_the_rank_and_adds_what_one_end_alone_has() -> None:
    lora = kind()
    start, end = random_values(lora.start()), dict(random_values(lora.start()).map(lambda t: 2 * t))
    end |= {name: tensor for name, tensor in start.items() if "lora_A" in name}
    own = {factor_name(Q, A, PERSONAL): torch.ones(1, 8), factor_name(Q, B, PERSONAL): torch.ones(12, 1)}
    mixture = lora.interpolate(start, PromptState({**end, **own}), 0.5)
    assert mixture[factor_name(Q, A)].shape == (2, 8)
    torch.testing.assert_close(mixture[factor_name(Q, B)], 1.5 * start[factor_name(Q, B)])
    torch.testing.assert_close(
        dense(lora.factors(mixture, Q, PERSONAL)), 0.5 * lora.scale(1) * torch.ones(12, 8).double()
    )
