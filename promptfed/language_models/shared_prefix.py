"""Rows of tokens that a causal model reads behind others: what many rows begin with passes through the model once.

What comes first never sees what comes later, so the keys and values of a prompt are the same before every text. They
are kept in full for every layer, also where the model looks back over a window only: the mask hides what lies further
back.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptfed.language_models.keys_values import Layers, cache_layers, cache_name
from promptfed.language_models.row_batches import padded_rows

LOG = logging.getLogger(__name__)
KINDS = {"full_attention", "sliding_attention"}
"""Layers whose keys and values are all that they remember."""


@dataclass(frozen=True)
class Beginnings:
    """Keys and values of rows of tokens that a model has read. No later reading changes them.

    Attributes:
        layers: Keys and values of each layer, each ``(rows, heads, places, width)``.
        lengths: The number of tokens of each row ``(rows,)``; may be 0.
        ends: The place behind the last token of each row ``(rows,)``; its tokens stand in a run before that.
    """

    layers: Layers
    lengths: Tensor
    ends: Tensor

    def select(self, rows: Sequence[int]) -> Beginnings:
        """Return a beginning for each of ``rows``, all of which end at the last place.

        A window of attention counts places: so there must be none between a beginning and what follows it.
        """
        index = torch.tensor(list(rows), device=self.lengths.device)
        lengths, ends = self.lengths[index], self.ends[index]
        longest = int(lengths.max())
        places = (ends[:, None] - longest + torch.arange(longest, device=index.device)).clamp(min=0)

        def aligned(states: Tensor) -> Tensor:
            if len(states) == 1:  # a view: the same beginning for all
                return states[:, :, places[0]].expand(len(index), -1, -1, -1)
            return states[index[:, None], :, places].transpose(1, 2)

        layers = tuple((aligned(keys), aligned(values)) for keys, values in self.layers)
        return Beginnings(layers, lengths, torch.full_like(ends, longest))


class CausalReader:
    """A causal ``model`` of transformers that reads rows of input vectors, behind beginnings or from the start."""

    def __init__(self, model: Any) -> None:
        self._base = model.base_model
        self._cache = cache_name(model)
        self._takes_places = all(
            "position_ids" in inspect.signature(part.forward).parameters for part in (model, model.base_model)
        )

    def read(
        self, part: Any, rows: Sequence[Tensor], behind: Beginnings | None = None, *, keep: bool = False
    ) -> tuple[Any, Beginnings | None]:
        """Read ``rows`` of vectors ``(length, dim)``, padded at the end.

        Args:
            part: The model, or its base model.
            rows: The input vectors of each row, one or more.
            behind: What each row continues.
            keep: Whether to return what was read.

        Returns:
            The output of ``part``, and the rows as beginnings if ``keep``.
        """
        from transformers import DynamicCache

        vectors, mask = padded_rows(rows)
        lengths, steps = mask.sum(1), torch.arange(mask.shape[1], device=mask.device)
        places, start = steps.expand(len(rows), -1), 0
        more: dict[str, Any] = {"use_cache": False}
        if keep or behind is not None:
            more = {"use_cache": True, self._cache: DynamicCache()}
        total = lengths
        if behind is not None:
            start, total = int(behind.ends[0]), behind.lengths + lengths
            for number, (keys, values) in enumerate(behind.layers):
                more[self._cache].update(keys, values, number)
            seen = torch.arange(start, device=lengths.device) >= start - behind.lengths[:, None]
            mask, places = torch.cat([seen, mask], 1), places + behind.lengths[:, None]
        if self._takes_places:  # padding stands where the row's last token does: some models have no further place
            more["position_ids"] = torch.minimum(places, total[:, None] - 1)
        output = part(inputs_embeds=vectors, attention_mask=mask.long(), **more)
        if not keep:
            return output, None
        return output, Beginnings(cache_layers(getattr(output, self._cache)), total, start + lengths)

    def beginnings(self, rows: Sequence[Tensor], behind: Beginnings | None = None) -> Beginnings:
        """Return what the model keeps of ``rows``, which may be empty."""
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        filled = [row if len(row) else row.new_zeros(1, row.shape[1]) for row in rows]
        _, read = self.read(self._base, filled, behind, keep=True)
        assert read is not None
        lacking = (lengths == 0).long()
        return Beginnings(read.layers, read.lengths - lacking, read.ends - lacking)

    @torch.no_grad()
    def agrees(self, vectors: Tensor) -> bool:
        """Return whether the model says the same of the input ``vectors`` ``(9 or more, dim)`` in parts as whole.

        Recurrent layers, say, keep other things than keys and values.
        """
        kinds = getattr(self._base.config.get_text_config(), "layer_types", None) or ()
        if not KINDS.issuperset(kinds) or getattr(self._base.config, "attention_chunk_size", None):
            return False
        starts, ends, parents = [vectors[:2], vectors[2:5]], [vectors[5:6], vectors[6:9], vectors[4:6]], [1, 0, 1]
        try:
            behind = self.beginnings(starts[1:], self.beginnings([vectors[:1]]).select([0]))
            lead = torch.cat([vectors[:1], starts[1]])
            first = self.read(self._base, [ends[0]], behind.select([0]))[0].last_hidden_state[0]
            parts = self.read(self._base, ends, self.beginnings(starts).select(parents))[0].last_hidden_state
            rows = [torch.cat([starts[parent], end]) for parent, end in zip(parents, ends, strict=True)]
            whole = [
                self._base(inputs_embeds=row[None], use_cache=False).last_hidden_state[0, -len(end) :]
                for row, end in zip([torch.cat([lead, ends[0]]), *rows], [ends[0], *ends], strict=True)
            ]
        except Exception as error:  # models of all kinds raise their own
            LOG.debug("beginnings cannot be shared: %s: %s", type(error).__name__, error)
            return False
        expected = torch.cat(whole).float()
        shared = torch.cat([first, *(row[: len(end)] for row, end in zip(parts, ends, strict=True))]).float()
        allowed = min(0.1, 1000 * torch.finfo(vectors.dtype).eps) * expected.abs().max()
        return bool((shared - expected).abs().max() <= allowed)
