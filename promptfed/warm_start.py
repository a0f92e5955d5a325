"""Warm start: a run that begins with the shared prompt of another run or bundle, or with an adapter of PEFT."""

from __future__ import annotations

import os
from typing import Any

from promptfed.adapter_start import adapter_state, is_adapter_state, shared_from_adapter
from promptfed.config import ObjectRecord, RunConfig
from promptfed.errors import ConfigError, RunError
from promptfed.experiment import Experiment
from promptfed.export.bundle import read_bundle
from promptfed.export.finished import FinishedRun
from promptfed.export.loaded import LoadedBundle
from promptfed.files.paths import checked_path
from promptfed.kept_text import MARK
from promptfed.method import Method
from promptfed.peft_format.reading import is_adapter
from promptfed.printable import LONGEST, printable
from promptfed.prompt_state import PromptState
from promptfed.runs.directory import BUNDLE_CONFIG, RunDirectory, is_run

FILE = "init.safetensors"
"""The prompt that a run began with, in its folder: it goes on without the other run."""
ROLE = "init"


def first_prompt(init: Any) -> tuple[PromptState, ObjectRecord]:
    """Return the shared prompt of ``init``, and what a config says of it.

    Args:
        init: A Run, a LoadedBundle, or the folder of a run, a bundle or an adapter of PEFT.

    Raises:
        ConfigError: It is nothing of the kind.
        RunError: The run has no finished round.
        BundleError: The bundle is damaged.
    """
    finished: Any = getattr(init, "finished", None)
    if isinstance(init, str | os.PathLike):
        folder = checked_path(init, ROLE)
        if is_run(folder):
            finished = FinishedRun.load(RunDirectory.open(folder))
        elif (folder / BUNDLE_CONFIG).exists():
            return _recorded(read_bundle(folder).shared, f"bundle {folder.name}")
        elif is_adapter(folder):
            return _recorded(*adapter_state(folder))
        else:
            raise ConfigError(
                f"init is '{printable(folder, LONGEST)}', where neither a run nor a bundle nor an adapter of PEFT is: "
                "give the folder of one"
            )
    elif isinstance(init, LoadedBundle):
        return _recorded(init.shared, f"bundle {init.path.name}")
    if not isinstance(finished, FinishedRun):
        raise ConfigError(f"init is {printable(repr(init), 80)}: give a run, a bundle, or the folder of one")
    state, run = finished.state, finished.run
    return _recorded(state.shared, f"run {run.path.name}, round {state.round} of {run.config.method}")


def _recorded(shared: PromptState, name: str) -> tuple[PromptState, ObjectRecord]:
    shared = PromptState({key: tensor for key, tensor in shared.items() if key != MARK})
    return shared, ObjectRecord(name=printable(name), fingerprint=shared.sha256())


def beginning_with(config: RunConfig, init: Any) -> tuple[RunConfig, PromptState | None]:
    """Return ``config`` with a record of ``init``, and the prompt of it; None: the method's own start.

    Raises:
        ConfigError: As ``first_prompt`` does.
        RunError: As ``first_prompt`` does.
        BundleError: As ``first_prompt`` does.
    """
    if init is None:
        return config, None
    first, record = first_prompt(init)
    return config.model_copy(update={"objects": {**config.objects, ROLE: record}}), first


def save_first_prompt(run: RunDirectory, shared: PromptState) -> None:
    """Keep ``shared`` in the folder of ``run``. Raises DiskError."""
    shared.save(run.path / FILE)


def read_first_prompt(run: RunDirectory) -> PromptState | None:
    """Return the prompt that ``run`` begins with; None if that is its method's own. Raises RunError for another one."""
    record = run.config.objects.get(ROLE)
    if record is None:
        return None
    shared = PromptState.load(run.path / FILE)
    if shared.sha256() != record.fingerprint:
        raise RunError(
            f"{printable(run.path / FILE)} is not the prompt that the run begins with ({printable(record.name)}): "
            "bring it back, or train anew"
        )
    return shared


def first_shared(run: RunDirectory, method: Method) -> PromptState | None:
    """Return the shared prompt that ``run`` begins with in the terms of its ``method``; None: the method's own.

    Raises:
        RunError: As ``read_first_prompt`` does.
    """
    state = read_first_prompt(run)
    return shared_from_adapter(method, state) if state is not None and is_adapter_state(state) else state


def check_first_prompt(experiment: Experiment, shared: PromptState | None) -> None:
    """Raise ConfigError if the run's method does not start from such tensors."""
    if shared is None:
        return
    method = experiment.method()
    if not shared.is_finite():
        raise ConfigError("init holds values that are no finite numbers: give another run or bundle")
    if is_adapter_state(shared):
        shared_from_adapter(method, shared)
        return
    usual = method.init_shared()
    if not len(usual):
        raise ConfigError(f"method '{experiment.config.method}' shares no prompt to begin with: leave init out")
    if difference := usual.mismatch(shared):
        raise ConfigError(
            f"init does not fit method '{experiment.config.method}' with these options: {printable(difference, 400)} "
            "(the method's and init's)"
        )
