"""How much a server takes, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass, fields

from promptfed.errors import ConfigError

MEGABYTE = 1_000_000
LEAST = {"max_wait_ms": 0.0}
"""Limits that may be less than 1."""


@dataclass(frozen=True)
class ServeLimits:
    """Limits of a server.

    Attributes:
        max_batch: Examples that go through the model together.
        max_wait_ms: How long an example waits for others to join it.
        max_queue: Examples that wait; more are refused (503).
        max_requests: Requests that are read or answered at once; more are refused (429).
        max_files: Examples in one request.
        max_file_mb: Size of one file, or of one text.
        max_request_mb: Size of a whole request.
        max_megapixels: Size of a decoded image.
        max_classes: Class names in one request.
        read_seconds: How long a request may take to arrive.
        answer_seconds: How long an answer may take.
    """

    max_batch: int = 16
    max_wait_ms: float = 4.0
    max_queue: int = 256
    max_requests: int = 64
    max_files: int = 16
    max_file_mb: float = 10.0
    max_request_mb: float = 32.0
    max_megapixels: float = 25.0
    max_classes: int = 1000
    read_seconds: float = 30.0
    answer_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), LEAST.get(field.name, 1 if field.type == "int" else 1e-3)
            if not least <= value < float("inf"):
                raise ConfigError(f"{field.name} is {value}: give a number, at least {least}")

    @property
    def file_bytes(self) -> int:
        """Bytes of one file."""
        return int(self.max_file_mb * MEGABYTE)

    @property
    def request_bytes(self) -> int:
        """Bytes of a whole request."""
        return int(self.max_request_mb * MEGABYTE)

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return int(self.max_megapixels * 1_000_000)
