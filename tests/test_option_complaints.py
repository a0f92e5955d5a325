from __future__ import annotations

import pytest

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError
from promptfed.privacy_options import PrivacyOptions


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("privacy", r"^'privacy' is a group of options: write --set privacy\.dp=client \(promptfed list options"),
        ("method", r"^'method' is a group of options|^option 'method' is"),
        ("task", r"^option 'task' is"),
        ("attack", r"^'attack' is a group of options: write --set attack\.NAME=VALUE"),
    ],
)
def test_a_group_of_options_is_no_option(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RunConfig(**{name: {}})


def test_the_capitals_of_our_own_words_stay() -> None:
    terms = {"dp": "client", "noise": 0.1, "clip": "adaptive", "secure_aggregation": True}
    with pytest.raises(ConfigError, match=r"they agreed on: say privacy\.clip=C$"):
        validate(PrivacyOptions, terms, "privacy option")
