"""A service around a backbone that can be worked out on paper, and pictures for it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from promptfed.config import RunConfig
from promptfed.export.bundle import Bundle, make_bundle
from promptfed.method import METHODS
from promptfed.serving.limits import ServeLimits
from promptfed.serving.service import Service
from promptfed.setup import Setup
from promptfed.types import ClientPrompt

COLOURS = {"red": (220, 40, 40), "green": (40, 220, 40), "blue": (40, 40, 220)}


@pytest.fixture
def bundle(setup: Setup) -> Bundle:
    """The start of PromptFL, exported."""
    kind = METHODS["promptfl"]
    method = kind(kind.Config(), setup)
    config = RunConfig(method="promptfl", rounds=3)
    return make_bundle(config, method, ClientPrompt(method.init_shared()), 0, "house 0", "images")


@pytest.fixture
def make_service(bundle: Bundle, setup: Setup) -> Iterator[Callable[..., Service]]:
    """``make_service(max_queue=3)``: a service with these limits; it is closed at the end."""
    begun: list[Service] = []

    def make(**limits: Any) -> Service:
        bundles = {"first": bundle, "second": bundle}
        begun.append(Service(bundles, setup.model, dict.fromkeys(bundles, "ab" * 32), ServeLimits(**limits)))
        return begun[-1]

    yield make
    for service in begun:
        service.close()


@pytest.fixture
def png() -> Callable[..., bytes]:
    """``png("red", side=4)``: a plain picture as the bytes of a file."""

    def make(colour: str = "red", side: int = 2) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (side, side), COLOURS[colour]).save(file, "PNG")
        return file.getvalue()

    return make
