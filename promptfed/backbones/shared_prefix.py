"""A causal text tower that computes once what many sentences begin with.

In a causal transformer what comes first never sees what comes later. All classes begin with the start token and the
learned context, so these pass through the tower once, and only the few tokens of each name attend to their keys and
values. The result is that of the plain way up to rounding, with the same gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from promptfed.backbones.base import PromptedText

LEAST_SAVED = 0.1
"""Share of all tokens that must be saved for the other way to be worth its overhead."""
MOST_REAL = 0.85
"""Share of real tokens among those of all rows from which on padding goes through the layers with them."""

CLASSES = frozenset(
    (
        *(("open_clip.transformer", name) for name in ("Transformer", "ResidualAttentionBlock")),
        *(("promptfed.backbones.text_tower_cache", name) for name in ("Transformer", "Block")),
    )
)
"""Modules and names of the classes whose forward pass is known here; subclasses may do something else."""


@dataclass(frozen=True)
class GroupedSentences:
    """GroupedSentences in groups, those of a group with one beginning of ``length`` tokens.

    Attributes:
        prefix: Embeddings of each group's beginning ``(groups, length, dim)``.
        suffix: Embeddings of what follows ``(rows, longest, dim)``, padded at the end.
        group: The group of each row ``(rows,)``.
        end: The position in its suffix at which each row is read ``(rows,)``; what follows it is padding.
        deep: What replaces ``slots`` of the beginnings at the input of blocks ``first``, ``first + 1``, ...:
            ``(blocks, groups, n_ctx, dim)``.
        slots: Positions in the beginning ``(n_ctx,)``.
        first: The first block with a deep context.
    """

    prefix: Tensor
    suffix: Tensor
    group: Tensor
    end: Tensor
    deep: Tensor | None = None
    slots: Tensor | None = None
    first: int = 1

    def put(self, hidden: Tensor, block: int) -> Tensor:
        """Return ``hidden`` ``(groups, length, dim)``, the input of ``block``, with its deep contexts in place."""
        number = block - self.first
        if self.deep is None or self.slots is None or not 0 <= number < len(self.deep):
            return hidden
        index = self.slots[None, :, None].expand(len(hidden), -1, hidden.shape[2])
        return hidden.scatter(1, index, self.deep[number].to(hidden.dtype))


def prompted_sentences(texts: Sequence[PromptedText], device: torch.device) -> GroupedSentences | None:
    """Return class names with their contexts as sentences, one group a text; None if sharing saves too little.

    A context of its own for each class is not shared, nor are deep contexts that stand beyond the beginning.
    """
    length = min(_shared(text) for text in texts)
    sizes = [len(text.tokens.end) for text in texts]
    longest = max(text.tokens.embeddings.shape[1] for text in texts)
    if not _is_worth_it(length, len(texts), sum(sizes), longest):
        return None
    deep, slots = [text.deep for text in texts if text.deep is not None], texts[0].tokens.slots
    if deep and (slots.numel() == 0 or any(not _is_within(text.tokens.slots, slots[0], length) for text in texts)):
        return None
    beginnings = [text.tokens.select([0]).with_context(text.ctx.to(device))[0, :length] for text in texts]
    suffixes = [_filled(text, length, device) for text in texts]
    group = torch.arange(len(texts), device=device).repeat_interleave(torch.tensor(sizes, device=device))
    return GroupedSentences(
        prefix=torch.stack(beginnings),
        suffix=torch.cat([F.pad(vectors, (0, 0, 0, longest - length - vectors.shape[1])) for vectors in suffixes]),
        group=group,
        end=torch.cat([text.tokens.end for text in texts]) - length,
        deep=torch.stack([vectors.to(device) for vectors in deep], 1) if deep else None,
        slots=slots[0] if deep else None,
        first=texts[0].first,
    )


def plain_sentences(ids: Tensor, end: Tensor, table: nn.Embedding) -> GroupedSentences | None:
    """Return texts as sentences, those with the same first words in one group; None if sharing saves too little.

    Args:
        ids: The token ids ``(rows, longest)``, padded at the end.
        end: The position of each row's end token ``(rows,)``.
        table: The embedding of each token.
    """
    (rows, longest), most = ids.shape, int(end.min())
    if rows < 2 or most < 2:  # alone, or with nothing but the start token in common
        return None
    digests = _digests(ids[:, :most])
    beginnings = [len(torch.unique(digests[:, place])) for place in range(most)]
    length = max(range(1, most + 1), key=lambda length: (rows - beginnings[length - 1]) * length)
    prefixes, group = torch.unique(ids[:, :length], dim=0, return_inverse=True)
    if not _is_worth_it(length, len(prefixes), rows, longest):
        return None
    return GroupedSentences(table(prefixes), table(ids[:, length:]), group, end - length)


def _digests(ids: Tensor) -> Tensor:
    """Return a number for the tokens up to each position ``(rows, length)``: the same tokens have the same number."""
    digests = torch.zeros_like(ids)
    for place in range(ids.shape[1]):
        before = digests[:, place - 1] if place else digests[:, 0]
        digests[:, place] = before * 6364136223846793005 + ids[:, place] + 1442695040888963407
    return digests


def _shared(text: PromptedText) -> int:
    """Return how many first positions of all rows of ``text`` are the same."""
    shared, slots = text.tokens.shared, text.tokens.slots
    return min(shared, int(slots.min())) if text.ctx.dim() == 3 and slots.numel() else shared


def _is_within(slots: Tensor, place: Tensor, length: int) -> bool:
    """Return whether all rows have their context at ``place`` ``(n_ctx,)``, in the first ``length`` positions."""
    return bool((slots == place).all()) and int(place.max()) < length


def _filled(text: PromptedText, length: int, device: torch.device) -> Tensor:
    """Return what follows the beginning in each row ``(rows, longest - length, dim)``."""
    tokens = text.tokens
    if tokens.slots.numel() == 0 or int(tokens.slots.max()) < length:
        return tokens.embeddings[:, length:]
    return tokens.with_context(text.ctx.to(device))[:, length:]


def _is_worth_it(length: int, groups: int, rows: int, longest: int) -> bool:
    """Return whether ``groups`` beginnings of ``length`` tokens save enough of ``rows`` sentences of ``longest``."""
    return length > 1 and (rows - groups) * length >= LEAST_SAVED * rows * longest


class SharedPrefixTower:
    """The blocks of an open_clip text tower. Make one by ``of``, which knows the towers that it works for."""

    def __init__(self, tower: Any) -> None:
        self._tower = tower
        self._blocks = list(tower.transformer.resblocks)

    @classmethod
    def of(cls, tower: Any) -> SharedPrefixTower | None:
        """Return the tower, or None if its blocks or its mask are of another kind."""
        mask = tower.attn_mask
        hidden = torch.full(mask.shape, float("-inf"), device=mask.device).triu(1)
        is_causal = bool(torch.equal(mask.float(), hidden))
        is_plain = _is_untouched(tower.transformer) and all(map(_is_plain, tower.transformer.resblocks))
        return cls(tower) if is_causal and is_plain else None

    def read(self, sentences: GroupedSentences, rows_at_once: int) -> Tensor:
        """Return the last hidden state ``(rows, dim)`` at the end of each sentence, before the last normalisation.

        More than ``rows_at_once`` rows are done in parts; with a gradient each part's activations are computed again in
        the backward pass, so memory does not grow with the number of rows.
        """
        keys = self._keys(sentences)
        rows = len(sentences.suffix)
        if rows <= rows_at_once:
            return self._suffixes(sentences.suffix, sentences.group, sentences.end, *keys)
        parts, again = [], torch.is_grad_enabled() and (keys[-1].requires_grad or sentences.suffix.requires_grad)
        for start in range(0, rows, rows_at_once):
            some = slice(start, start + rows_at_once)
            arguments = (sentences.suffix[some], sentences.group[some], sentences.end[some], *keys)
            if again:
                parts.append(checkpoint(self._suffixes, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._suffixes(*arguments))
        return torch.cat(parts)

    def _keys(self, sentences: GroupedSentences) -> list[Tensor]:
        """Return what later tokens see of the beginnings in each block.

        These are keys and values ``(2, groups, heads, length, width)``.
        """
        x = self._placed(sentences.prefix, 0)
        seen = []
        for number, block in enumerate(self._blocks):
            x = sentences.put(x, number)
            query, *rest = _heads(block, _projected(block, x))
            seen.append(torch.stack(rest))
            if number + 1 < len(self._blocks):
                attended = F.scaled_dot_product_attention(query, rest[0], rest[1], is_causal=True)
                x = _rest(block, x, attended.transpose(1, 2).flatten(2))
        return seen

    def _suffixes(self, suffix: Tensor, group: Tensor, end: Tensor, *keys: Tensor) -> Tensor:
        """Return the last hidden state at the end of some rows; padding passes through no layer if there is much."""
        length, longest = keys[0].shape[3], int(end.max()) + 1
        shape, starts = (len(suffix), longest), torch.arange(len(suffix), device=end.device) * longest
        is_real = (torch.arange(longest, device=end.device) <= end[:, None]).flatten()
        real = is_real.nonzero()[:, 0]
        is_packed = len(real) < MOST_REAL * len(is_real)
        open_to = torch.ones(longest, length + longest, dtype=torch.bool, device=end.device).tril(length)
        x = self._placed(suffix[:, :longest], length).flatten(0, 1)
        x = x[real] if is_packed else x
        for number, (block, seen) in enumerate(zip(self._blocks, keys, strict=True)):
            projected = _projected(block, x)
            if is_packed:
                projected = projected.new_zeros(len(is_real), projected.shape[1]).index_copy(0, real, projected)
            query, key, value = _heads(block, projected.view(*shape, -1))
            theirs = seen[:, 0, None].expand(-1, len(suffix), -1, -1, -1) if seen.shape[1] == 1 else seen[:, group]
            key, value = torch.cat([theirs[0], key], 2), torch.cat([theirs[1], value], 2)
            if number + 1 < len(self._blocks):
                attended = F.scaled_dot_product_attention(query, key, value, attn_mask=open_to)
                attended = attended.transpose(1, 2).flatten(2).flatten(0, 1)
                x = _rest(block, x, attended[real] if is_packed else attended)
            else:  # of the last block only the end tokens are read
                query, mask = (
                    query[torch.arange(len(suffix), device=end.device), :, end][:, :, None],
                    open_to[end][:, None, None],
                )
                attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
                ends = is_real.cumsum(0)[starts + end] - 1 if is_packed else starts + end
                x = _rest(block, x[ends], attended.flatten(1))
        return x

    def _placed(self, vectors: Tensor, start: int) -> Tensor:
        """Return token embeddings with those of their positions, which begin at ``start``, in the tower's type."""
        dtype = self._tower.transformer.get_cast_dtype()
        positions = self._tower.positional_embedding[start : start + vectors.shape[1]]
        placed: Tensor = vectors.to(dtype) + positions.to(dtype)
        return placed


def _is_untouched(module: Any) -> bool:
    """Return whether calling ``module`` does what its library wrote: it has no hooks, and no forward of a user's."""
    hooks = (getattr(module, name, {}) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"))
    is_of_library = type(module).__module__.startswith("torch.nn.") or _name(type(module)) in CLASSES
    return is_of_library and "forward" not in vars(module) and not any(hooks)


def _name(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _is_plain(block: Any) -> bool:
    """Return whether ``block`` is attention and two layers, each normalised before and added to what goes in."""
    attention = getattr(block, "attn", None)
    return (
        _is_untouched(block)
        and type(attention) is nn.MultiheadAttention
        and _is_untouched(attention)
        and _is_untouched(attention.out_proj)
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not hasattr(block, "ln_1_kv")
    )


def _projected(block: Any, x: Tensor) -> Tensor:
    """Return queries, keys and values ``(..., 3 dim)`` of a block's input ``(..., dim)``."""
    projected: Tensor = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    return projected


def _heads(block: Any, projected: Tensor) -> Sequence[Tensor]:
    """Part ``(rows, length, 3 dim)`` into queries, keys and values ``(rows, heads, length, width)``."""
    parts = projected.unflatten(-1, (3, int(block.attn.num_heads), -1)).permute(2, 0, 3, 1, 4)
    return parts[0], parts[1], parts[2]


def _rest(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """Return the output of a block for its input ``x``, of whose shape is what its heads ``attended``."""
    x = x + _scaled(block, "ls_1", block.attn.out_proj(attended))
    whole: Tensor = x + _scaled(block, "ls_2", block.mlp(block.ln_2(x)))
    return whole


def _scaled(block: Any, name: str, x: Tensor) -> Tensor:
    scale = getattr(block, name, None)
    scaled: Tensor = x if scale is None else scale(x)
    return scaled
