from __future__ import annotations

import torch

from promptfed.inserts.prefix import PREFIX, Prefix


def test_it_starts_from_a_text_s_keys_and_values_and_its_first_token_has_no_gradient() -> None:
    text = torch.randn(3, 2 * 2 * 4, generator=torch.Generator().manual_seed(0))
    kind = Prefix(3, layers=2, kv_width=4, seed=1, text=text)
    start = kind.start()
    assert torch.equal(start[PREFIX], text)
    assert kind.shape == (3, 16)
    values = {PREFIX: start[PREFIX].clone().requires_grad_()}
    prefix = kind.insert(values).prefix
    assert prefix is not None
    assert torch.equal(prefix, text)
    prefix.sum().backward()  # type: ignore[no-untyped-call]
    gradient = values[PREFIX].grad
    assert gradient is not None
    assert (gradient[0] == 0).all()
    assert (gradient[1:] == 1).all()


def test_columns_of_layers_and_random_starts() -> None:
    kind = Prefix(2, layers=3, kv_width=2, seed=1, first_is_frozen=False)
    assert kind.columns([2, 0]).tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    assert kind.start("a") == kind.start("a") != kind.start("b")
    assert kind.peft_config(kind.start())["num_virtual_tokens"] == 2
