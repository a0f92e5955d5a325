"""The folder of everything that promptfed can compute again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Where promptfed keeps what it can compute again: ``PROMPTFED_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("PROMPTFED_CACHE") or platformdirs.user_cache_dir("promptfed"))
