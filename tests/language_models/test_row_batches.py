"""Like lengths are read together, and every row once."""

from __future__ import annotations

import torch

from promptfed.language_models.row_batches import padded_rows, row_batches


def test_every_row_is_read_once_with_little_padding():
    lengths = [30, 5, 31, 6, 90, 5]
    batches = row_batches(lengths)
    assert sorted(row for batch in batches for row in batch) == list(range(6))
    assert batches == [[1, 5, 3], [0, 2], [4]]  # 3 * 24 tokens of padding are more than a pass costs
    assert row_batches([8] * 5, most=16) == [[0, 1], [2, 3], [4]]
    assert row_batches([100], most=16) == [[0]]
    assert row_batches([]) == []


def test_rows_are_padded_on_the_right():
    vectors, mask = padded_rows([torch.ones(1, 2), torch.full((3, 2), 2.0)])
    assert vectors[:, :, 0].tolist() == [[1, 0, 0], [2, 2, 2]]
    assert mask.tolist() == [[True, False, False], [True, True, True]]
