"""What a finished run gives to a prompt library, and what a newcomer finds in one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from promptfed.blackbox.tokens.word_vectors import word_vectors
from promptfed.errors import ConfigError, RunError
from promptfed.export.bundle import candidate_of
from promptfed.export.finished import FinishedRun
from promptfed.printable import printable
from promptfed.readers.content import expected_content
from promptfed.records.library import Entry
from promptfed.runs.partition_file import read_partition
from promptfed.types import ClientPrompt


def entry_of(finished: FinishedRun, about: str) -> Entry:
    """Return what a run adds to a library: the text prompt that its clients share; nothing of a client's own.

    Args:
        finished: The run.
        about: What the prompt is for, in a sentence.

    Raises:
        ConfigError: The run has no such prompt.
        RunError: Its table of clients is gone.
    """
    run, oracle = finished.run, finished.run.config.oracle
    prompt = finished.prompt(None)
    candidate = candidate_of(finished.method, ClientPrompt(prompt.shared))
    if oracle is None or finished.examples != "texts":
        raise ConfigError(
            f"run '{printable(run.path)}' sorts no texts with a black box, which is what a library is for"
        )
    if len(prompt.shared) and candidate is not None and not candidate.needs():
        raise ConfigError(f"run '{printable(run.path)}' ends with the empty prompt, which everybody has")
    if not len(prompt.shared) or candidate is None or not candidate.text or candidate.soft is not None:
        raise ConfigError(
            f"run '{printable(run.path)}' has no text prompt that its clients share ({finished.method.name}): a bundle "
            "holds other prompts (promptfed export, promptfed push)"
        )
    table = read_partition(run)
    if table is None:
        raise RunError(f"run '{printable(run.path)}' has no partition.json, which says how many examples it trained on")
    with expected_content(f"the files of run '{printable(run.path)}'"):
        counts = [sum(map(int, row["train"])) for row in table["clients"]]
    digest = hashlib.sha256(f"{sorted(counts)} {run.config.seed} {run.config.data} {candidate.text}".encode())
    holders = [count for count in counts if count]
    name = finished.method.setup.model.name
    return Entry(about, name, candidate.text, max(1, sum(holders)), max(1, len(holders)), (digest.hexdigest()[:16],))


def nearest(entries: Sequence[Entry], sentence: str, oracle: str | None) -> list[tuple[Entry, float | None]]:
    """Return ``entries`` with the cosine of their task and ``sentence``, the nearest first, then those of most clients.

    Args:
        entries: Prompts of a library.
        sentence: A task; "" leaves the order to the support, and no cosine.
        oracle: The black box that they must be found with; None for any.
    """
    fitting = [entry for entry in entries if oracle in (None, entry.model)]
    if not sentence.strip():
        likeness: dict[str, float] = {}
    else:
        tasks = sorted({entry.task for entry in fitting})
        vectors = word_vectors([sentence, *tasks], "minilm")
        likeness = dict(zip(tasks, (vectors[1:] @ vectors[0]).tolist(), strict=True))
    rows = [(entry, likeness.get(entry.task)) for entry in fitting]
    return sorted(rows, key=lambda row: (-(row[1] or 0.0), -row[0].clients, -row[0].examples, row[0].line()))
