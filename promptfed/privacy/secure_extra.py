"""The package that secure sums need and nothing else does."""

from __future__ import annotations

from promptfed.errors import MissingPackageError


def require_cryptography() -> None:
    """Raise MissingPackageError if cryptography is not installed."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"secure sums need cryptography, which is not installed here ({error}): pip install 'promptfed[secure]'"
        ) from error
