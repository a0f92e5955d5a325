"""What a method works with: the frozen model, and what all parties agree on before round 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from promptfed.agreement import Agreement
from promptfed.errors import ConfigError
from promptfed.frozen_model import FrozenModel
from promptfed.usage import Usage

if TYPE_CHECKING:
    from promptfed.backbones.base import Backbone
    from promptfed.backbones.dual_encoder import DualEncoder
    from promptfed.backbones.features import FeatureStore
    from promptfed.blackbox.oracles.oracle import Oracle
    from promptfed.forecasters.model import Forecaster
    from promptfed.language_models.model import LanguageModel
    from promptfed.policies.model import Policy


@dataclass(frozen=True)
class Setup:
    """A frozen model and an agreement. Every method is built from one."""

    model: FrozenModel
    agreement: Agreement
    selection: str = "accuracy"
    """The measure that choices on validation data go by."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The base classes, in the order of all scores."""
        return self.agreement.classes

    @property
    def templates(self) -> tuple[str, ...]:
        """Sentences with ``{}`` in the place of a class name."""
        return self.agreement.templates

    @property
    def rounds(self) -> int:
        """The planned rounds."""
        return self.agreement.rounds

    @property
    def seed(self) -> int:
        """The seed of all public draws."""
        return self.agreement.seed

    @property
    def domains(self) -> tuple[str, ...]:
        """The domain of client k at position k."""
        return self.agreement.domains

    @property
    def features(self) -> FeatureStore:
        """The features of a dual encoder. Raises ConfigError if the model is none."""
        if self.model.kind == "language model":
            raise ConfigError(
                "this needs images and a dual encoder, but the task's model is a language model: choose a method for "
                "language models (promptfed list methods), or a task such as clip-fewshot"
            )
        if self.model.kind == "forecaster":
            raise ConfigError(
                "this needs images and a dual encoder, but the task's model forecasts series: choose a method for "
                "forecasters (promptfed list methods), or a task such as clip-fewshot"
            )
        if self.model.kind == "policy":
            raise ConfigError(
                "this needs images and a dual encoder, but the task's model acts in episodes: choose a method for "
                "policies (promptfed list methods), or a task such as clip-fewshot"
            )
        if self.model.kind != "dual encoder":
            raise ConfigError(
                "this needs a white-box backbone, but the task's model is a black box (an oracle): choose a black-box "
                "method (promptfed list methods), or a task such as clip-fewshot"
            )
        return cast("DualEncoder", self.model).features

    @property
    def backbone(self) -> Backbone:
        """The towers of a dual encoder. Raises ConfigError if the model is none."""
        return self.features.backbone

    @property
    def language_model(self) -> LanguageModel:
        """The language model that gives gradients. Raises ConfigError if the model is none."""
        if self.model.kind != "language model":
            raise ConfigError("this needs a language model with gradients: use --task text-classification")
        return cast("LanguageModel", self.model)

    @property
    def forecaster(self) -> Forecaster:
        """The model that forecasts series. Raises ConfigError if the model is none."""
        if self.model.kind != "forecaster":
            raise ConfigError("this needs a model that forecasts series: use --task forecast")
        return cast("Forecaster", self.model)

    @property
    def policy(self) -> Policy:
        """The model that acts in episodes. Raises ConfigError if the model is none."""
        if self.model.kind != "policy":
            raise ConfigError("this needs a model that acts in episodes: use --task allocation")
        return cast("Policy", self.model)

    @property
    def oracle(self) -> Oracle:
        """The black box. Raises ConfigError if the model is none."""
        if self.model.kind != "oracle":
            raise ConfigError("this asks a black box: use --task blackbox-text, blackbox-vision or cot")
        return cast("Oracle", self.model)

    def agreeing(self, **changes: Any) -> Setup:
        """Return the same with other values of the agreement: ``setup.agreeing(seed=1)``."""
        return replace(self, agreement=Agreement(**{**dict(self.agreement), **changes}))

    def usage(self) -> Usage:
        """Return what the frozen model was asked since it was loaded."""
        return self.model.usage()

    def verify_frozen(self) -> None:
        """Raise BackboneError if a model that is held in this process is not what was loaded."""
        self.model.verify_frozen()
