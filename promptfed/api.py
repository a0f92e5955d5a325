"""The program as functions: what the command line does, Python does with the same options and the same errors.

>>> import promptfed as pf
>>> run = pf.train(method="promptfl", data="folder:photos", rounds=20)    # doctest: +SKIP
>>> run.export(client=0, path="bundle")                                   # doctest: +SKIP
>>> pf.load("bundle").predict(["photo.jpg"], classes=["cat", "dog"])      # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptfed.comparison.folder import comparison_folder
from promptfed.comparison.plan import Plan
from promptfed.config import Options, build_config, held_out_option, read_yaml
from promptfed.experiment import resolve
from promptfed.export.loaded import LoadedBundle
from promptfed.export.loaded import load_bundle as load
from promptfed.progress import ComparisonProgress, Progress
from promptfed.report.live_comparison import live_comparison
from promptfed.run import Run
from promptfed.runner import carry_out_comparison, stop_on_ctrl_c
from promptfed.runs.directory import RunDirectory
from promptfed.training import Interrupted

__all__ = ["LoadedBundle", "Run", "compare", "load", "load_run", "train"]
PathLike = str | os.PathLike[str]


def train(
    method: str | None = None,
    data: str | None = None,
    *,
    folder: PathLike | None = None,
    config: PathLike | Mapping[str, Any] | None = None,
    progress: bool | Progress = True,
    **options: Any,
) -> Run:
    """Train a federated prompt, next to the honest baselines, and return the finished run.

    Args:
        method: How to learn it ("promptfl" by default); ``promptfed list methods`` shows all.
        data: What to learn from: "icons" (bundled), "folder:PATH", "hf:NAME", "tsv:PATH" and so on.
        folder: The run's folder; None: a fresh one below ``runs``.
        config: A YAML file of options, or such options as a mapping. The other arguments override it.
        progress: Show a progress bar on stderr, or an object that is told what happens.
        options: All options of ``RunConfig`` (rounds, clients, shots, backbone, seed, ...), hold_out_classes, and
            those of the method, task, aggregator and oracle as mappings: ``method_options={"lr": 0.02}``.

    Returns:
        The run, all of whose files are in its folder.

    Raises:
        ConfigError: An option is unknown, has a bad value, or does not go with another. Nothing is written.
        KeyboardInterrupt: After Ctrl-C. All that was done is saved; ``load_run(folder).resume()`` goes on.
        PromptFedError: The run cannot begin, or cannot go on.
    """
    file: Mapping[str, Any] = (
        {} if config is None else config if isinstance(config, Mapping) else read_yaml(Path(config))
    )
    chosen = resolve(build_config(file, _given(options, method=method, data=data)))
    label = f"{chosen.task}-{chosen.method}"
    run = Run(RunDirectory.create(None if folder is None else Path(folder), chosen, label=label))
    run._carry_out(progress, is_new=True)
    return run


def load_run(path: PathLike) -> Run:
    """Return the run in the folder ``path``, finished or not. Raises RunError if there is none."""
    return Run(RunDirectory.open(Path(path)))


def compare(
    methods: Sequence[str] | str,
    *,
    seeds: int = 1,
    folder: PathLike | None = None,
    search: Mapping[str, Sequence[Any]] | None = None,
    fix_partition: bool = False,
    progress: bool | ComparisonProgress = True,
    **options: Any,
) -> dict[str, Any]:
    """Compare methods fairly: the same partitions, budget and cached features for all, over several seeds.

    Args:
        methods: Their names, or "all".
        seeds: How many seeds; seed s trains on partition seed s.
        folder: Where all runs and tables go; None: a fresh folder below ``runs``. One that is there is gone on with.
        search: Option of the methods -> values to search, on validation data of a partition of its own.
        fix_partition: Use one partition for all seeds.
        progress: Show progress on stderr, or an object that is told what happens.
        options: As of ``train``.

    Returns:
        The summary: what ``comparison.json`` in the folder holds, and ``folder``.

    Raises:
        KeyboardInterrupt: After Ctrl-C. The same call with the same folder goes on.
    """
    names = [name.strip() for name in methods.split(",")] if isinstance(methods, str) else list(methods)
    grid = {name.removeprefix("method."): tuple(values) for name, values in (search or {}).items()}
    plan = Plan.make(build_config(_given(options)), names, seeds, fix_partition=fix_partition, grid=grid)
    with (
        comparison_folder(None if folder is None else Path(folder)) as place,
        live_comparison(progress) as teller,
        stop_on_ctrl_c(teller.note) as should_stop,
    ):
        try:
            summary, _ = carry_out_comparison(plan, place, teller, should_stop)
        except Interrupted as stopped:
            saved = f"Saved; the same call with folder='{place}' goes on"
            raise KeyboardInterrupt(f"stopped: {stopped.where}. {saved}") from stopped
    return {**summary, "folder": str(place)}


def _given(options: Mapping[str, Any], **more: Any) -> Options:
    """The options that the caller really gave, in the words of ``RunConfig``."""
    chosen = {name: value for name, value in {**options, **more}.items() if value is not None}
    held_out = chosen.pop("hold_out_classes", None)
    if held_out is not None:
        chosen["task_options"] = {**chosen.get("task_options", {}), **held_out_option(held_out)}
    return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in chosen.items()}
