"""The folder of everything that promptfed can compute again, and how large a part of it may grow."""

from __future__ import annotations

import os
import re
from pathlib import Path

import platformdirs

from promptfed.errors import ConfigError
from promptfed.printable import LONGEST, printable

DEFAULT_LIMIT_GB = 5.0
"""Gigabytes of features."""
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(B|KB|MB|GB|TB)", re.IGNORECASE)


def cache_folder() -> Path:
    """Where promptfed keeps what it can compute again: ``PROMPTFED_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("PROMPTFED_CACHE") or platformdirs.user_cache_dir("promptfed"))


def feature_limit() -> int:
    """Return the bytes that features may take on disk: PROMPTFED_CACHE_MAX, else PROMPTFED_CACHE_GB, else 5 GB.

    Raises:
        ConfigError: The variable is no size.
    """
    if size := os.environ.get("PROMPTFED_CACHE_MAX"):
        return parsed_size(size, "PROMPTFED_CACHE_MAX")
    size = os.environ.get("PROMPTFED_CACHE_GB", str(DEFAULT_LIMIT_GB))
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", size):
        raise ConfigError(f"PROMPTFED_CACHE_GB is '{size}': give a number of gigabytes such as 5, or 0 for no cache")
    return int(float(size) * 1e9)


def parsed_size(text: str, what: str) -> int:
    """Return the bytes that ``text`` says, such as 2GB. Raises ConfigError, naming ``what``, if it is no size."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{what} is '{printable(text, LONGEST)}': give a size such as 2GB or 500MB")
    return int(float(match[1]) * UNITS[match[2].upper()])
