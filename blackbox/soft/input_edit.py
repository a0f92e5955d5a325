"""Edits of a black box's input by a few numbers: soft prompt vectors, or a pattern added to an image's pixels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.blackbox.base import BlackBoxConfig
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.errors import ConfigError
from promptfed.seeding import torch_stream


class EditConfig(BlackBoxConfig):
    """Input of the black box to change, and resolution of the change."""

    side: Literal["auto", "text", "pixels"] = Field(
        "auto", description="soft prompt or pixel pattern; auto: pixels where the oracle takes them"
    )
    n_tokens: int = Field(2, ge=1, le=256, description="soft prompt vectors (side text)")
    rank: int = Field(
        16, ge=1, le=4096, description="numbers that a soft prompt vector is made of, by a frozen projection"
    )
    start: Literal["zeros", "words"] = Field(
        "zeros", description="what soft prompt vectors start from: zeros, or embeddings of random common words"
    )
    alpha: float = Field(1.0, gt=0, description="scale of soft prompt vectors against the model's own embeddings")
    pattern: int = Field(4, ge=1, description="pixels along each side of the pattern, before it is enlarged")
    strength: float = Field(1.0, gt=0, description="scale of the pattern against preprocessed pixels")
    text: str | None = Field(None, description="text prompt beside a pixel pattern; by default the first hand-written")


class Edit(ABC):
    """Edit made of ``size`` numbers, which start at 0."""

    size: int

    @abstractmethod
    def candidate(self, values: Tensor) -> Candidate:
        """Return the prompt of ``values`` ``(size,)``, or a prompt for each example of ``(examples, size)``."""


class SoftEdit(Edit):
    """Soft prompt ``p = p0 + V B``: ``V`` ``(n_tokens, rank)`` are the values, ``B`` ``(rank, width)`` is frozen.

    ``B`` has entries N(0, alpha std(token embeddings) / sqrt(rank)) from the run's seed, as in BBT's projection.
    """

    def __init__(self, config: EditConfig, oracle: Oracle, seed: int) -> None:
        space = oracle.soft
        self.tokens, self.rank = config.n_tokens, config.rank
        self.size = config.n_tokens * config.rank
        draw = torch_stream(seed, "soft edit")
        std = config.alpha * space.std / math.sqrt(config.rank)
        self.basis = torch.randn(config.rank, space.dim, generator=draw) * std
        self.start = torch.zeros(config.n_tokens, space.dim)
        if config.start == "words" and len(space.words):
            rows = torch.randint(len(space.words), (config.n_tokens,), generator=torch_stream(seed, "first words"))
            self.start = space.words[rows].float().cpu()

    def candidate(self, values: Tensor) -> Candidate:
        return Candidate(soft=self.start + values.reshape(*values.shape[:-1], self.tokens, self.rank) @ self.basis)


class PixelEdit(Edit):
    """Pattern ``(3, side, side)``, enlarged to the size of the image and added to its preprocessed pixels.

    The class names are put into a hand-written prompt.
    """

    def __init__(self, config: EditConfig, oracle: Oracle) -> None:
        oracle.check_offers({"pixel prompts"}, "a pixel pattern")
        assert oracle.backend.pixel_shape is not None
        self.channels, *self.shape = oracle.backend.pixel_shape
        self.side, self.strength = config.pattern, config.strength
        self.size = self.channels * self.side**2
        self.text = oracle.form.prompts[0] if config.text is None else config.text

    def candidate(self, values: Tensor) -> Candidate:
        pattern = values.reshape(-1, self.channels, self.side, self.side) * self.strength
        pixels = F.interpolate(pattern, tuple(self.shape), mode="bilinear", align_corners=False)
        return Candidate(self.text, pixels=pixels if values.dim() == 2 else pixels[0])


def edit_for(config: EditConfig, oracle: Oracle, seed: int) -> Edit:
    """Return the edit of ``config.side``.

    Raises:
        ConfigError: The oracle takes scores of plain text prompts only.
    """
    if config.side == "pixels" or (config.side == "auto" and "pixel prompts" in oracle.abilities):
        return PixelEdit(config, oracle)
    if config.side == "auto" and "soft prompts" not in oracle.abilities:
        raise ConfigError(
            f"a generated prompt is a soft prompt or a pixel pattern, and oracle '{oracle.name}' takes neither: "
            "use minilm, local:MODEL, gemma, embeds or clip:BACKBONE"
        )
    return SoftEdit(config, oracle, seed)
