"""Names of splits in folders, files and tables: words for training, validation and test data."""

from __future__ import annotations

import re

WORDS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "devel": "val",
    "development": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}
"""Name -> split."""

_NAME = re.compile(
    rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})([ _-]?(set|data|images|imgs|split))?([ _-]?\d+)?"
)


def split_of(name: str) -> str:
    """Return the split (train, val, test) that a folder or file name stands for; empty if it is none.

    Case does not matter, and a word for images or a number may follow: ``Training``, ``test_set``, ``train2017``.
    """
    match = _NAME.fullmatch(name.strip().lower())
    return WORDS[match[1]] if match else ""
