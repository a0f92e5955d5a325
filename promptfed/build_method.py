"""Build a method from its name, its options and the model at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptfed.config import validate
from promptfed.method import METHODS, Method
from promptfed.setup import Setup


def build_method(name: str, options: Mapping[str, Any], setup: Setup) -> Method:
    """Return the method called ``name`` with ``options``.

    Raises ConfigError for a name or an option that there is not, and for a backbone that does not fit.
    """
    kind = METHODS[name]
    setup.model.check_offers(kind.requires, f"method '{name}'")
    return kind(validate(kind.Config, options, "method option"), setup)
