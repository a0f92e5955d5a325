"""What methods that train LoRA factors share: their options, the kind of insert, and ranks that differ by client."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, field_validator

from promptfed.errors import ConfigError
from promptfed.inserts.base import MODULE
from promptfed.inserts.low_rank import RESIDUAL, A, B, LowRank
from promptfed.method import Shape, shapes
from promptfed.prompt_state import PromptState
from promptfed.prompts.language_method import LanguageConfig, LanguageMethod
from promptfed.setup import Setup

LowRankKind = TypeVar("LowRankKind", bound=LowRank)


class LowRankConfig(LanguageConfig):
    """Options of LoRA, beside those of every method on language models."""

    lr: float = Field(0.003, gt=0, description="learning rate")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("adamw", description="of a client's steps")
    r: int = Field(8, ge=1, le=1024, description="rank of the change of each matrix")
    alpha: float = Field(16.0, gt=0, description="a change is alpha / r times B A")
    rank_stabilised: bool = Field(False, description="alpha / sqrt(r) in the place of alpha / r (rsLoRA)")
    targets: tuple[str, ...] = Field(
        (),
        description="ends of the paths of the layers that are changed, such as q_proj,v_proj; all-linear: every one; "
        "empty: PEFT's choice for the architecture",
    )
    ranks: tuple[int, ...] = Field(
        (),
        description="ranks by client, such as 4,8,16: client k has the k-th, over and over; empty: r for all. Only "
        "flex_lora and het_lora merge different ones",
    )

    @field_validator("targets", "ranks", mode="before")
    @classmethod
    def _are_listed(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("ranks")
    @classmethod
    def _are_ranks(cls, ranks: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= rank <= 1024 for rank in ranks):
            raise ValueError("give ranks from 1 to 1024")
        return ranks


class OneFactorConfig(LowRankConfig):
    """Options of methods whose clients train one factor at a time, which a step of the same length changes less."""

    lr: float = Field(0.01, gt=0, description="learning rate")


class LowRankMethod(LanguageMethod):
    """A method that trains factors A ``(r, in)`` and B ``(out, r)`` beside each target matrix ``(out, in)``.

    By default both are sent and predicted with. Factors of the group RESIDUAL are sent to clients and stay as they are.
    """

    mixes_ranks: ClassVar[bool] = False
    """Whether its server merges factors of different ranks."""
    has_common_scale: ClassVar[bool] = False
    """Whether factors of any rank have the scale of the largest."""
    config: LowRankConfig
    kind: LowRank

    def __init__(self, config: LowRankConfig, setup: Setup) -> None:
        if len(set(config.ranks)) > 1 and not self.mixes_ranks:
            raise ConfigError(
                f"option 'ranks' is {','.join(map(str, config.ranks))}, and {self.name} merges factors of one rank "
                "only: use --method flex_lora or het_lora, or one rank for all (--set method.r=8)"
            )
        super().__init__(config, setup)

    def make_kind(self) -> LowRank:
        return self.make_factors(LowRank)

    def make_factors(self, kind: type[LowRankKind], **options: Any) -> LowRankKind:
        """Return the factors of all target matrices, of one ``kind`` with its own ``options``."""
        config = self.config
        return kind(
            self.model.matrices,
            config.targets or self.model.default_targets,
            self.setup.seed,
            r=max(config.ranks, default=config.r),
            alpha=config.alpha,
            rank_stabilised=config.rank_stabilised,
            common_scale=self.has_common_scale,
            **options,
        )

    def rank(self, client: int | None) -> int:
        """Return the rank that ``client`` trains; the largest for somebody who never took part."""
        ranks = self.config.ranks
        return ranks[client % len(ranks)] if ranks and client is not None else self.kind.r

    def trained_names(self, round: int, values: PromptState) -> Collection[str]:
        """Return all but the residual factors."""
        return [name for name in values if not name.startswith(RESIDUAL)]

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return shapes(sent, [name for name in sent if not name.startswith(RESIDUAL)])


def is_a(name: str) -> bool:
    """Whether a tensor is a factor A."""
    return name.endswith(f".{A}")


def is_factor(name: str) -> bool:
    """Whether a tensor is a factor A or B that is trained by all, and no residual or personal one."""
    return name.startswith(MODULE) and name.endswith((f".{A}", f".{B}"))
