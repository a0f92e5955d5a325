from __future__ import annotations

import pytest

from promptfed.config import RunConfig
from promptfed.errors import ConfigError


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
