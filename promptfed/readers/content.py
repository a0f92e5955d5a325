"""Values that were read well and are not what promptfed writes: somebody forged them, or another version wrote them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from promptfed.errors import FormatError, PromptFedError, reason

LOG = logging.getLogger(__name__)
UNEXPECTED = (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError)
"""What Python raises where a value is of another kind than the program reckons with."""


@contextmanager
def expected_content(what: str, *, tensors: bool = False) -> Iterator[None]:
    """Turn what Python raises about values of another kind into a FormatError about ``what``.

    For the few places that put many values of one file to use; what promptfed raises on purpose passes. ``tensors``:
    torch computes with them, and raises RuntimeError for shapes and types that do not fit; want of memory passes.
    """
    try:
        yield
    except PromptFedError:
        raise
    except (*UNEXPECTED, RuntimeError) as error:
        if not isinstance(error, UNEXPECTED) and (not tensors or _is_want_of_memory(error)):
            raise
        LOG.debug("%s", what, exc_info=True)
        raise FormatError(
            f"{what} do not hold what promptfed writes ({type(error).__name__}: {reason(error)[:200]}): forged, or of "
            "another version"
        ) from error


def _is_want_of_memory(error: BaseException) -> bool:
    """Whether torch found no memory, on a GPU or (of which it says so in words only) on the CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)
