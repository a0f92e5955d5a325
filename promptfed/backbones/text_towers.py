"""Text towers of open_clip models that can be prompted, one class for each kind (see ``text_tower_kinds``).

A tower turns token embeddings, prompted or not, into features. It says at which position a sentence is read, and its
kind says whether what lies behind that position may be cut.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from promptfed.backbones.base import DeepContext
from promptfed.backbones.shared_prefix import GroupedSentences, SharedPrefixTower
from promptfed.backbones.text_tower_kinds import (
    CAUSAL,
    CAUSAL_EOS,
    CLASS_TOKEN,
    LAST,
    MASKED,
    WHOLE,
    TowerKind,
    kind_by_pooling,
)
from promptfed.backbones.tokenization import Frame
from promptfed.errors import BackboneError
from promptfed.printable import printable

POOLERS = frozenset({"MeanPooler", "ClsPooler", "ClsLastHiddenStatePooler"})
"""Ways in which open_clip makes one vector of an encoder's output, for ``MaskedTower``."""
NOT_OF_THE_MODEL = frozenset({"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"})
"""Fields of an encoder's config that do not change what it computes."""


class TextTower(ABC):
    """The text side of a model.

    Attributes:
        kind: What is read, and what may be cut.
        module: The part of the model with the weights.
        table: The embedding of each token id.
        text_dim: The width of a token embedding.
        embed_dim: The width of a feature.
        context_length: The most tokens of a sentence.
        layers: The number of blocks.
        has_deep_prompts: Whether contexts may be put at the input of later blocks.
    """

    kind: ClassVar[TowerKind]
    module: Any
    table: nn.Embedding
    text_dim: int
    embed_dim: int
    context_length: int
    layers: int
    has_deep_prompts: bool = True

    @cached_property
    def prefixes(self) -> SharedPrefixTower | None:
        """Return the same blocks for sentences that begin alike; None where each is read whole."""
        return None

    @abstractmethod
    def read(self, ids: Sequence[int]) -> int:
        """Return the position at which a framed and padded row of token ids is read."""

    @abstractmethod
    def encode(self, vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        """Map ``(rows, length, text_dim)``, read at ``end`` ``(rows,)``, to ``(rows, embed_dim)`` float32."""

    def encode_grouped(self, sentences: GroupedSentences, rows_at_once: int) -> Tensor:
        """Return the features ``(rows, embed_dim)`` of sentences that begin alike; only where there are ``prefixes``.

        More than ``rows_at_once`` rows are done in parts.
        """
        raise AssertionError(f"{self.kind.name} towers read every sentence whole")

    def check_frame(self, name: str, frame: Frame) -> None:
        """Raise BackboneError if backbone ``name`` frames its sentences in a way that this tower does not read."""
        if frame.last is not None and self.kind.is_cut:
            raise BackboneError(
                f"backbone '{printable(name)}': its tokenizer puts a token at the last of all positions, but its text "
                f"tower is {self.kind.about}: no prompt can stand between"
            )

    def cut(self, vectors: Tensor, end: Tensor) -> Tensor:
        """Leave out what lies behind the last position that is read, if nothing there is seen.

        Raises:
            BackboneError: The tower reads every position, and ``vectors`` ``(rows, length, dim)`` lacks some.
        """
        if self.kind.is_cut:
            return vectors[:, : int(end.max()) + 1]
        if vectors.shape[1] != self.context_length:
            raise BackboneError(
                f"this text tower reads padding too: embeddings of {vectors.shape[1]} positions were given, "
                f"it needs all {self.context_length}"
            )
        return vectors

    def described(self) -> list[Any]:
        """Return what the weights and the modules do not show of the tower."""
        return [self.kind.name]


class OpenClipTower(TextTower):
    """open_clip's own transformer ``module``: a ``CLIP``, or the ``TextTransformer`` of another model."""

    def __init__(self, module: Any, pooling: str) -> None:
        self.module, self.pooling = module, pooling
        self.table = module.token_embedding
        self.context_length, self.text_dim = (int(size) for size in module.positional_embedding.shape)
        projection = module.text_projection
        self.embed_dim = self.text_dim if projection is None else _output_width(projection)
        self.layers = len(module.transformer.resblocks)

    def encode(self, vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        tower, length = self.module, vectors.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        x = vectors.to(dtype) + tower.positional_embedding[:length].to(dtype)
        mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
        if deep is None:
            x = tower.transformer(x, attn_mask=mask)
        else:
            for number, block in enumerate(tower.transformer.resblocks):
                x = block(deep.put(x, number), attn_mask=mask)
        return self.features(x[torch.arange(len(x), device=x.device), end])

    def features(self, hidden: Tensor) -> Tensor:
        """Project last hidden states ``(rows, dim)`` at the positions read to ``(rows, embed_dim)`` float32."""
        x = self.module.ln_final(hidden)
        projection = self.module.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        features: Tensor = x.float()
        return features

    def described(self) -> list[Any]:
        return [self.kind.name, self.pooling]


class CausalTower(OpenClipTower):
    """Causal, read at the end token, which has the highest id: what follows it is never seen."""

    kind = CAUSAL

    @cached_property
    def prefixes(self) -> SharedPrefixTower | None:
        return SharedPrefixTower.of(self.module)

    def encode_grouped(self, sentences: GroupedSentences, rows_at_once: int) -> Tensor:
        assert self.prefixes is not None, "which the caller has seen"
        return self.features(self.prefixes.read(sentences, rows_at_once))

    def read(self, ids: Sequence[int]) -> int:
        return max(range(len(ids)), key=ids.__getitem__)


class CausalEosTower(CausalTower):
    """Causal, read at the first end-of-sequence id: MetaCLIP 2 worldwide."""

    kind = CAUSAL_EOS

    def __init__(self, module: Any, pooling: str) -> None:
        super().__init__(module, pooling)
        self.eos = _eos(module)

    def read(self, ids: Sequence[int]) -> int:
        return list(ids).index(self.eos)

    def check_frame(self, name: str, frame: Frame) -> None:
        super().check_frame(name, frame)
        _check_eos(name, frame, self.eos)

    def described(self) -> list[Any]:
        return [*super().described(), self.eos]


class WholeTower(OpenClipTower):
    """Reads in both directions without hiding the padding: MobileCLIP S1, S2 and others.

    Every position is seen, so a context takes the place of padding at the end and nothing is ever cut.
    """

    kind = WHOLE

    def read(self, ids: Sequence[int]) -> int:
        if self.pooling == "first":
            return 0
        if self.pooling == "eos":
            return list(ids).index(_eos(self.module))
        return max(range(len(ids)), key=ids.__getitem__)

    def check_frame(self, name: str, frame: Frame) -> None:
        super().check_frame(name, frame)
        if self.pooling == "eos":
            _check_eos(name, frame, _eos(self.module))


class LastTower(OpenClipTower):
    """Read at the last position, whatever stands there: SigLIP, SigLIP 2, CLIPA."""

    kind = LAST

    def read(self, ids: Sequence[int]) -> int:
        return len(ids) - 1


class MaskedTower(TextTower):
    """An encoder of transformers that hides padding: xlm-roberta, mt5, nllb, BERT.

    Args:
        module: open_clip's ``HFTextEncoder``.
        dtype: The type of all its weights but those that the encoder keeps in float32.
        limit: The most tokens of a sentence.
    """

    kind = MASKED
    has_deep_prompts = False

    def __init__(self, module: Any, dtype: torch.dtype, limit: int) -> None:
        self.module = module
        self.table = module.transformer.get_input_embeddings()
        self.text_dim, self.embed_dim = int(self.table.weight.shape[1]), int(module.output_dim)
        config = module.config
        self.context_length = limit
        self.layers = int(getattr(config, "num_hidden_layers", None) or getattr(config, "num_layers", None) or 0)
        _lower(module, dtype)
        self._dtype = dtype

    def read(self, ids: Sequence[int]) -> int:
        raise AssertionError("a masked tower is read at all tokens of a sentence, to its last one")

    def encode(self, vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        if deep is not None:
            raise BackboneError(
                "a text tower of transformers has no deep text prompts: use tiny or an open_clip ViT with a tower of "
                "its own"
            )
        mask = (torch.arange(vectors.shape[1], device=vectors.device) <= end[:, None]).long()
        output = self.module.transformer(inputs_embeds=vectors.to(self._dtype), attention_mask=mask)
        pooled = self.module.pooler(output, mask)
        features: Tensor = self.module.proj(pooled.to(self._dtype)).float()
        return features

    def check_frame(self, name: str, frame: Frame) -> None:
        super().check_frame(name, frame)
        pad = self.module.config.pad_token_id
        if pad != frame.pad:
            raise BackboneError(
                f"backbone '{printable(name)}': its text tower hides padding of id {pad}, but its tokenizer pads with "
                f"{frame.pad}: give the tokenizer that it was trained with"
            )

    def described(self) -> list[Any]:
        config = self.module.config.to_dict()
        facts = {key: value for key, value in config.items() if key not in NOT_OF_THE_MODEL}
        return [self.kind.name, type(self.module.pooler).__name__, json.dumps(facts, sort_keys=True, default=str)]


OWN_TOWERS = {tower.kind: tower for tower in (CausalTower, CausalEosTower, WholeTower, LastTower)}
"""Kind -> its class, of open_clip's own transformers."""


def text_tower(name: str, model: nn.Module, dtype: torch.dtype, limit: int | None = None) -> TextTower:
    """Return the text tower of an open_clip ``model``.

    Args:
        name: The backbone, for errors.
        model: The model.
        dtype: The type of its weights.
        limit: The most tokens of its tokenizer, where it has a limit.

    Raises:
        BackboneError: It is of a kind that cannot be prompted; the message says why.
    """
    from open_clip.hf_model import HFTextEncoder
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    if not isinstance(model, CLIP | CustomTextCLIP):
        reason = CLASS_TOKEN.refusal if type(model).__name__ == "CoCa" else "it is of a class of its own"
        raise refusal(name, type(model).__name__, reason)
    module: Any = model if isinstance(model, CLIP) else model.text
    if isinstance(module, HFTextEncoder):
        pooler = type(module.pooler).__name__
        if pooler not in POOLERS:
            raise refusal(
                name, type(module).__name__, f"its pooler is {pooler}, not one of {', '.join(sorted(POOLERS))}"
            )
        return MaskedTower(module, dtype, limit or _positions(module.config))
    if not isinstance(module, CLIP | TextTransformer):
        raise refusal(name, type(module).__name__, "it is of a class of its own")
    pooling = str(getattr(module, "text_pool_type", getattr(module, "pool_type", "argmax")))
    kind = kind_by_pooling(pooling, is_causal=module.attn_mask is not None)
    if getattr(module, "cls_emb", None) is not None:
        kind = CLASS_TOKEN
    if kind.refusal:
        raise refusal(name, type(module).__name__, kind.refusal)
    if getattr(module, "use_pad_mask", False):
        raise refusal(name, type(module).__name__, "it hides padding by the token ids, which a prompt has none of")
    return OWN_TOWERS[kind](module, pooling)


def refusal(name: str, what: str, why: str) -> BackboneError:
    """Return the error that a model's text tower cannot be prompted."""
    return BackboneError(
        f"backbone '{printable(name, 300)}' has a text tower promptfed cannot prompt ({what}): {why}; "
        "promptfed list backbones says which can be prompted"
    )


def _lower(encoder: Any, dtype: torch.dtype) -> None:
    """Bring all of an encoder's numbers to ``dtype``, but the parts that transformers keeps in float32.

    open_clip lowers the linear layers alone, which an encoder of transformers cannot use.
    """
    if dtype == torch.float32:
        return
    wide = set(getattr(encoder.transformer, "_keep_in_fp32_modules", None) or ())
    for name, part in encoder.named_modules():
        tensors = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        for tensor in tensors if name.rpartition(".")[2] not in wide else ():
            tensor.data = tensor.data.to(dtype) if tensor.is_floating_point() else tensor.data


def _output_width(projection: nn.Linear | Tensor) -> int:
    return projection.out_features if isinstance(projection, nn.Linear) else int(projection.shape[1])


def _eos(module: Any) -> int:
    return int(getattr(module, "text_eos_id", getattr(module, "eos_id", 2)))


def _check_eos(name: str, frame: Frame, eos: int) -> None:
    if eos not in (*frame.before, *frame.after):
        raise BackboneError(
            f"backbone '{printable(name)}' is read at the token id {eos}, but its tokenizer ends a text with "
            f"{list(frame.after)}: give the tokenizer that it was trained with"
        )


def _positions(config: Any) -> int:
    """Return how many positions an encoder has; those of T5 are unlimited, of which open_clip uses 77."""
    return int(getattr(config, "max_position_embeddings", None) or 77)
