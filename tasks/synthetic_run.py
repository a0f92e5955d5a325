"""``synthetic:RUN``: the synthetic texts of a finished run, to train on, and the run's own real texts, to test with."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from promptfed.errors import ConfigError, DataError, PromptFedError, RunError
from promptfed.examples.base import Sample, TextItem
from promptfed.method import METHODS
from promptfed.printable import printable
from promptfed.privacy.statement import FILE as PRIVACY
from promptfed.prompt_template import PromptTemplate
from promptfed.prompts.synthetic_texts import makers_of_texts, synthetic_texts
from promptfed.readers.content import expected_content
from promptfed.runs.checkpoint import load_checkpoint, newest_round
from promptfed.runs.directory import DEPLOYMENT, RunDirectory, is_run
from promptfed.runs.partition_check import ContentDigests
from promptfed.runs.partition_file import read_partition
from promptfed.runs.passport import check_passport
from promptfed.tasks.base import TASKS
from promptfed.tasks.sources import tsv
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.tables import Columns
from promptfed.types import Split

log = logging.getLogger(__name__)
KIND = "synthetic"
"""How ``--data`` names such data."""


def source(path: str, columns: Columns) -> Source:
    """Return the synthetic texts of the run, or of the exported table, at ``path``.

    A run's texts are for training and validation. The tests are the real texts that the run itself tests with; where
    these cannot be read, the task holds some synthetic texts out. A note says which.

    Args:
        path: The folder of a finished run, the folder of a table that one was exported to, or the table itself.
        columns: The columns of the table.

    Raises:
        RunError: There is no such run, or it has not finished.
        ConfigError: Its method makes no texts.
        DataError: It has no text of some class, or its real texts have changed.
    """
    folder = Path(path).expanduser()
    if folder.is_file() or ((folder / "train.tsv").is_file() and not is_run(folder)):
        return _of_table(tsv.source(path, columns))
    run = _finished(folder)
    record = _record(run)
    with expected_content(f"the files of run '{printable(folder)}'"):
        classes = tuple(map(str, record["classes"]))
    pairs = _pairs(run, classes)
    train = [
        Sample(TextItem(text, f"synthetic {k}"), classes.index(name), split="train")
        for k, (text, name) in enumerate(pairs, 1)
    ]
    about = f"{len(pairs)} synthetic texts of run '{printable(folder)}' ({_promise(run)}) train and validate"
    form = form_of(path)
    descriptions = {name: text for name, text in form.descriptions.items() if name in classes} if form else {}
    test, why = _real_tests(run, record)
    if test is None:
        note = f"tests are synthetic texts too, since the run's real ones cannot be read ({why}): the figures do not "
        notes = (f"{about}: no private text is read", f"{note}say how good a prompt is on real texts")
        return Source(f"{KIND}:{path}", classes, tuple(train), notes=notes, descriptions=descriptions)
    real = [Sample(item, label, split="test") for item, label in zip(test.items, test.labels.tolist(), strict=True)]
    notes = (about, f"tests are the {len(real)} real test texts of that run; nothing else uses a private text")
    return Source(f"{KIND}:{path}", classes, (*train, *real), notes=notes, descriptions=descriptions)


def _of_table(source: Source) -> Source:
    if any(sample.split == "test" for sample in source.samples):
        return source
    note = "tests are held out of the synthetic texts: the figures do not say how good a prompt is on real ones"
    return replace(source, notes=(*source.notes, f"{note} (a test.tsv beside train.tsv may hold some)"))


def form_of(path: str) -> PromptTemplate | None:
    """Return how the run at ``path`` puts a text to its model; None for a table, which does not say it.

    Raises:
        RunError: There is no such run.
        FormatError: Its files were forged.
    """
    folder = Path(path).expanduser()
    if not is_run(folder):
        return None
    record = _record(RunDirectory.open(folder))
    with expected_content(f"the files of run '{printable(folder)}'"):
        form = PromptTemplate.model_validate(record.get("form") or {})
        classes = set(map(str, record["classes"]))
    of_classes = {
        field: {name: text for name, text in getattr(form, field).items() if name in classes}
        for field in ("words", "descriptions")
    }
    return form.model_copy(update=of_classes)


def _finished(folder: Path) -> RunDirectory:
    """Open the run in ``folder``.

    Raises:
        RunError: There is none, or it has not finished.
        ConfigError: Its method makes no texts.
    """
    run = RunDirectory.open(folder)
    if not METHODS[run.config.method].makes_texts:
        raise ConfigError(
            f"data '{KIND}:{printable(folder)}' is a run of method '{run.config.method}', which makes no synthetic "
            f"texts: name a run of {' or '.join(makers_of_texts())}"
        )
    if run.read_metrics() is None:
        rounds = newest_round(run.stage_folder(run.config.method, is_baseline=False))
        raise RunError(
            f"run '{printable(folder)}' has finished {rounds} of {run.config.rounds} rounds, and its texts and epsilon "
            f"may change: go on with it first, promptfed train --resume {shlex.quote(str(folder))}"
        )
    for line in check_passport(run):
        log.warning(line)
    return run


def _record(run: RunDirectory) -> dict[str, Any]:
    record = read_partition(run)
    if record is None:
        raise RunError(
            f"run '{printable(run.path)}' has no partition.json, which names its classes: promptfed train --resume "
            f"{shlex.quote(str(run.path))} writes it again"
        )
    return record


def _pairs(run: RunDirectory, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return (text, class) of a run's synthetic texts; texts that two classes have are left out.

    Raises:
        RunError: A file is damaged.
        DataError: A class has none.
    """
    checkpoint = load_checkpoint(run.stage_folder(run.config.method, is_baseline=False), fall_back=False)
    if checkpoint is None:
        raise RunError(f"run '{printable(run.path)}' has no checkpoint any more, and so no texts: train it anew")
    with expected_content(f"the checkpoint of run '{printable(run.path)}'", tensors=True):
        pairs = list(dict.fromkeys(synthetic_texts(checkpoint.state.shared, classes)))
    holders = Counter(text for text, _ in pairs)
    pairs = [(text, name) for text, name in pairs if holders[text] == 1]
    absent = [name for name in classes if name not in {name for _, name in pairs}]
    if absent:
        raise DataError(
            f"run '{printable(run.path)}' has no synthetic text of class '{printable(absent[0])}', so nothing can be "
            "learned of it: no client voted for one or had a draft accepted, or another class has the same ones. Train "
            "a run of more rounds, or of more texts of a class; one of fedpit also with a lower option method.margin, "
            "or a higher method.nearest or method.quoted_words"
        )
    return pairs


def _promise(run: RunDirectory) -> str:
    """Return the method of a run, its data, and its privacy, in a few words."""
    statement = run.read_json(PRIVACY)
    epsilon, delta = (statement or {}).get("epsilon"), (statement or {}).get("delta")
    if isinstance(epsilon, float | int) and isinstance(delta, float | int):
        promise = f"epsilon {epsilon:.2f} at delta {delta:g} of {(statement or {}).get('unit', 'a client')}"
    elif statement is None and run.config.privacy_options.get("dp", "none") != "none":
        promise = "its epsilon is not known, since it has no privacy.json"
    else:
        promise = "no differential privacy"
    return f"{run.config.method} on {printable(run.config.data)}, {promise}"


def _real_tests(run: RunDirectory, record: dict[str, Any]) -> tuple[Split | None, str]:
    """Return the run's test texts of its base classes; None with the reason where they cannot be read.

    Raises:
        DataError: They are not those that the run was tested with, so that it may have trained on some.
    """
    try:
        task = TASKS[run.config.task].build(run.config)
    except PromptFedError as error:
        return None, printable(error)
    content = record.get("content")
    digests = content.get("tests") if isinstance(content, dict) else None
    if digests is not None and digests == ContentDigests().of_tests(task):
        return task.base_test, ""
    if (run.path / DEPLOYMENT).exists():
        return None, "they are at its sites"
    raise DataError(
        f"the test texts of data '{printable(run.config.data)}' are not those of run '{printable(run.path)}', so some "
        "may have been trained on: bring the old data back, or export the texts (promptfed export RUN --client 0 "
        "--format texts --out DIR) and use --data synthetic:DIR"
    )
