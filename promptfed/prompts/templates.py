"""Class names in a hand-written sentence: the fixed text that several methods use."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, field_validator
from torch import Tensor

from promptfed.method import MethodConfig
from promptfed.setup import Setup


class HandTemplate(MethodConfig):
    """The hand-written sentence of a method that needs one."""

    template: str = Field("", description="sentence with {} for the class name; empty: the task's first template")

    @field_validator("template")
    @classmethod
    def _has_a_place_for_the_name(cls, value: str) -> str:
        if value and "{}" not in value:
            raise ValueError("must have {} where the class name goes, such as 'a photo of a {}.'")
        return value


def template_features(setup: Setup, classes: Sequence[str], template: str = "") -> Tensor:
    """Return features ``(classes, embed_dim)``, not normalised, of the class names in a template.

    They come from the feature cache: each sentence goes through the text tower once.

    Args:
        setup: The run's agreement and model.
        classes: Class names.
        template: The sentence with "{}"; empty: the task's first one.
    """
    sentence = template or setup.templates[0]
    return setup.features.texts([sentence.replace("{}", name.replace("_", " ")) for name in classes])
