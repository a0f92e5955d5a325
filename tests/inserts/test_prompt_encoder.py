from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from promptfed.inserts.prompt_encoder import PromptEncoder


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_it_is_the_prompt_encoder_of_peft_with_the_same_weights(network: Literal["mlp", "lstm"]) -> None:
    tuners: Any = pytest.importorskip("peft.tuners.p_tuning")
    kind = PromptEncoder(5, 16, seed=1, hidden=12, network=network)
    values = kind.start("test")
    config = tuners.PromptEncoderConfig(
        num_virtual_tokens=5,
        token_dim=16,
        num_transformer_submodules=1,
        encoder_hidden_size=12,
        encoder_reparameterization_type=network.upper(),
    )
    encoder = tuners.PromptEncoder(config)
    encoder.load_state_dict(dict(values))  # refuses names and shapes that differ
    assert torch.allclose(kind.prompt(values), encoder(torch.arange(5)), rtol=0, atol=1e-6)
    saved = kind.peft_tensors(values)["prompt_embeddings"]
    assert torch.allclose(saved, kind.prompt(values), rtol=0, atol=1e-6)
    assert not saved.requires_grad
    assert kind.peft_config(values)["num_virtual_tokens"] == 5


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_the_output_starts_where_it_is_told_and_all_weights_are_trained(network: Literal["mlp", "lstm"]) -> None:
    output = 0.05 * torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    kind = PromptEncoder(5, 16, seed=1, network=network, output=output)
    values = {name: tensor.clone().requires_grad_() for name, tensor in kind.start().items()}
    soft = kind.insert(values).soft
    assert soft is not None
    assert torch.allclose(soft, output, rtol=0, atol=1e-5)
    soft.square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in values.values())


def test_the_mean_of_encoders_is_no_encoder_of_the_mean_prompt_unless_all_is_linear() -> None:
    """Weights are averaged, as in the paper: the network is not linear, so this is not the mean of the prompts."""
    kind = PromptEncoder(5, 16, seed=1)
    first, second = kind.start("a"), kind.start("b")
    apart = (kind.prompt(first) + kind.prompt(second)) / 2 - kind.prompt(first.interpolate(second, 0.5))
    assert apart.abs().max() > 1e-3
    last = {name: tensor for name, tensor in second.items() if name.startswith("mlp_head.4.")}
    other = type(first)({**first, **last})  # they differ in the last layer alone, which is linear
    mean = (kind.prompt(first) + kind.prompt(other)) / 2
    assert torch.allclose(mean, kind.prompt(first.interpolate(other, 0.5)), atol=1e-6)
