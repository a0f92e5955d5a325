"""Synthetic texts of a run as a table that every task of texts can train on."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from promptfed.errors import ConfigError
from promptfed.files.export_folder import ExportKind, write_export_folder
from promptfed.method import Method
from promptfed.prompts.synthetic_texts import makers_of_texts, synthetic_texts
from promptfed.types import ClientPrompt

TABLE = "train.tsv"
KIND = ExportKind("a", "table of synthetic texts", TABLE, frozenset({TABLE}))


def write_texts(folder: Path, method: Method, prompt: ClientPrompt, *, overwrite: bool = False) -> Path:
    """Write ``train.tsv`` with the columns text and label, and return its folder.

    Args:
        folder: The folder to write.
        method: The run's method.
        prompt: What a client deploys.
        overwrite: Whether to replace a table that the folder holds.

    Raises:
        ConfigError: The method makes no texts.
        BundleError: The folder is in the way, or the disk refuses.
    """
    pairs = texts_of(method, prompt, "--format texts writes", "leave --format out for a bundle")
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(["text", "label"])
    writer.writerows(pairs)
    write_export_folder(folder, {TABLE: table.getvalue().encode()}, KIND, overwrite)
    return folder


def texts_of(method: Method, prompt: ClientPrompt, reader: str, instead: str) -> list[tuple[str, str]]:
    """Return (text, class) of the synthetic texts of ``prompt``, class after class, the best first.

    Args:
        method: The run's method.
        prompt: What a client deploys.
        reader: What reads them, for the message.
        instead: What to do otherwise.

    Raises:
        ConfigError: The method makes no texts.
    """
    if not method.makes_texts:
        raise ConfigError(
            f"{reader} the synthetic texts of {' and '.join(makers_of_texts())}, and '{method.name}' makes none: "
            f"{instead}"
        )
    return synthetic_texts(prompt.shared, method.setup.classes)
