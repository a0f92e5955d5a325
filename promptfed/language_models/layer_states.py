"""What each layer of a frozen language model makes of texts, without an insert."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptfed.language_models.model import LanguageModel


@torch.no_grad()
def layer_states(model: LanguageModel, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the states ``(rows, longest, width)`` behind each layer, from the lowest; zero where a row has no token.

    The last layer's are those behind the model's final norm, where it has one.
    """
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    mask = torch.arange(longest, device=model.device) < lengths[:, None]
    output = model.model.base_model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    return [states.float() * mask[..., None] for states in output.hidden_states[1:]]
