"""The word head of a model that writes: few rows are multiplied the other way round, with the same product."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.blackbox.oracles.local.writing import MOST_ROWS, _head_for_few_rows

from ....tiny_language_models import WIDTH, transformer


@pytest.mark.parametrize("rows", [1, 2, MOST_ROWS, MOST_ROWS + 1])
def test_the_product_of_few_rows_is_the_same(rows):
    model = transformer("llama")
    head = model.get_output_embeddings()
    states = torch.randn(rows, 1, WIDTH, generator=torch.Generator().manual_seed(rows))
    with torch.no_grad(), _head_for_few_rows(model):
        logits = model.lm_head(states)
    torch.testing.assert_close(logits, F.linear(states, head.weight), atol=1e-5, rtol=1e-5)
    assert "forward" not in vars(head), "the head is as it was"
