"""The options of FeS, and of the method inside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeGuard

from pydantic import ConfigDict, Field, model_validator

from promptfed.config import validate
from promptfed.errors import ConfigError
from promptfed.method import METHODS, Method, MethodConfig
from promptfed.methods.fes.curriculum import Curve, last_labelling, pseudo_label_count
from promptfed.prompts.language_method import LanguageConfig, LanguageMethod

USUAL_K: Mapping[Curve, int] = {"fixed": 100, "curriculum": 10}


class FeSConfig(MethodConfig):
    """Options of FeS; those of the method ``inner`` stand beside them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    inner: str = Field("fedprompt", description="the method that trains, whose options are options of this one too")
    labels: Literal["hard", "soft"] = Field(
        "hard", description="what a client notes of a text: the most probable class, or all probabilities (LP-FL)"
    )
    curve: Curve = Field("curriculum", description="how many texts are labelled: more every time, or a fixed number")
    k: int | None = Field(
        None, ge=1, description="texts (fixed; none: 100), or percent of the pool more each time (curriculum; none: 10)"
    )
    every: int = Field(1, ge=1, description="rounds from one labelling to the next")
    threshold: float = Field(0.0, ge=0, lt=1, description="a top probability up to this one is no label")
    balanced: bool = Field(
        True, description="label no more texts as one class than its equal share, so that no guess feeds on itself"
    )
    filter: Literal["vote_k", "sort", "none"] = Field(
        "vote_k", description="the pool: texts that stand for many, those like the labelled ones, or all"
    )
    kept: float = Field(0.5, gt=0, le=1, description="share of a client's unlabelled texts that the filter keeps")

    @model_validator(mode="before")
    @classmethod
    def _has_the_options_of_inner(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        own = {name: value for name, value in values.items() if name in cls.model_fields}
        kind = inner_method(own.get("inner", cls.model_fields["inner"].default))
        others = {name: value for name, value in values.items() if name not in cls.model_fields}
        return {**own, **validate(kind.Config, others, f"option of fes or '{kind.name}'").model_dump()}

    @classmethod
    def option_names(cls, options: Mapping[str, Any]) -> frozenset[str]:
        kind = inner_method(options.get("inner", cls.model_fields["inner"].default))
        return frozenset(cls.model_fields) | kind.Config.option_names(options)

    def inner_config(self) -> LanguageConfig:
        """Return the options of the method that trains."""
        kind = inner_method(self.inner).Config
        options = validate(kind, self.model_extra or {}, "method option")
        assert isinstance(options, LanguageConfig)
        return options

    def pool_count(self, unlabelled: int) -> int:
        """Return how many of a client's unlabelled texts its filter leaves."""
        return unlabelled if self.filter == "none" else max(min(1, unlabelled), int(unlabelled * self.kept))

    def count(self, pool: int, round: int) -> int:
        """Return how many of ``pool`` texts have a pseudo-label in ``round``, if all are confident."""
        k = self.k or USUAL_K[self.curve]
        return pseudo_label_count(self.curve, k, pool, last_labelling(round, self.every) - 1, self.every)


def inner_method(name: object) -> type[LanguageMethod]:
    """Return the method that ``fes`` wraps. Raises ConfigError if there is none, or it is not on language models."""
    kind = METHODS[str(name)]
    if not _can_be_inside(kind):
        fitting = [each for each in METHODS if _can_be_inside(METHODS[each])]
        raise ConfigError(
            f"method option 'inner' is '{name}', which fes does not wrap: use one of {', '.join(sorted(fitting))}"
        )
    return kind


def _can_be_inside(kind: type[Method]) -> TypeGuard[type[LanguageMethod]]:
    return issubclass(kind, LanguageMethod) and not issubclass(kind.Config, FeSConfig)
