"""The program as functions: what the command line does, Python does with the same options and the same errors.

For example::

    import promptfed as pf

    run = pf.train(method="promptfl", data="folder:photos", rounds=20)
    run.export(client=0, path="bundle")
    pf.load("bundle").predict(["photo.jpg"], classes=["cat", "dog"])
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

from promptfed.aggregators.base import Aggregator
from promptfed.blackbox.oracles.local.function import ScoreFunction
from promptfed.comparison.folder import comparison_folder
from promptfed.comparison.plan import Plan
from promptfed.config import Options, in_sections, read_yaml
from promptfed.engines.base import Engine
from promptfed.errors import unknown_name
from promptfed.export.loaded import LoadedBundle, load_bundle
from promptfed.files.paths import checked_path
from promptfed.method import METHODS, Method
from promptfed.object_options import ARGUMENTS, config_with_objects, objects_again
from promptfed.objects import compare as compare_objects
from promptfed.observers.choose import ObserverChoices, build_observers
from promptfed.oracle_options import OracleOptions
from promptfed.progress import ComparisonProgress, Progress
from promptfed.python_words import in_python, said_in_python, told_in
from promptfed.report.live import check_progress
from promptfed.report.live_comparison import live_comparison
from promptfed.resolve import resolve
from promptfed.run import Run
from promptfed.runner import carry_out_comparison, stop_on_ctrl_c
from promptfed.runs.directory import RunDirectory
from promptfed.training import Interrupted
from promptfed.warm_start import beginning_with, save_first_prompt

__all__ = ["LoadedBundle", "Run", "compare", "load", "load_run", "train"]
log = logging.getLogger(__name__)
PathLike = str | os.PathLike[str]
P = ParamSpec("P")


def _speaking_python(function: Callable[P, LoadedBundle]) -> Callable[P, LoadedBundle]:
    """Decorate a function whose errors, and those of the bundle that it returns, are in Python's words."""

    @wraps(function)
    def called(*args: P.args, **options: P.kwargs) -> LoadedBundle:
        bundle = function(*args, **options)
        bundle.words = in_python
        return bundle

    return said_in_python(called)


load = _speaking_python(load_bundle)


@said_in_python
def train(
    method: str | type[Method] | Method | None = None,
    data: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    test: Any = None,
    model: Any = None,
    oracle: str | ScoreFunction | None = None,
    aggregator: str | type[Aggregator] | Aggregator | None = None,
    engine: str | type[Engine] | Engine | None = None,
    init: Run | LoadedBundle | PathLike | None = None,
    folder: PathLike | None = None,
    config: PathLike | Mapping[str, Any] | None = None,
    progress: bool | Progress = True,
    observers: ObserverChoices = (),
    **options: Any,
) -> Run:
    """Train a federated prompt, next to the honest baselines, and return the finished run.

    Args:
        method: How to learn it ("promptfl" by default), by name, or a class or instance of your own;
            ``promptfed list methods`` shows all names.
        data: What to learn from: "icons" (bundled), "folder:PATH", "hf:NAME", "tsv:PATH" and so on. Or your own object:
            a list of (image or path or text, label), a ``datasets.Dataset``, a torch ``Dataset``, or a mapping {client
            name: such a thing}, which is then the partition.
        class_names: The classes of your own data in the order of numbered labels.
        test: Examples of your own data for tests alone.
        model: The frozen model: a backbone's name, a ``Backbone``, or (open_clip model, tokenizer, transform). A
            language model: its name (``"lm:gemma"``), or (model of transformers, tokenizer), or a ``LanguageModel``.
        oracle: The black box: a name, or a function ``score(prompts, texts, labels)`` that returns an array (prompts,
            texts, labels).
        aggregator: How updates are merged: a name, or a class or instance of your own.
        engine: Where clients work: "local", "ray", or a class or instance of your own.
        init: A run or bundle (or its folder) whose shared prompt this run begins with, or a folder of PEFT.
        folder: The run's folder; None: a fresh one below ``runs``.
        config: A YAML file of options, or such options as a mapping. The other arguments override it.
        progress: Show a progress bar on stderr, or an object that is told what happens.
        observers: Trackers that record the run: names ("tensorboard", "wandb", "mlflow", "trackio", "jsonl"), names
            with options (``{"wandb": {"project": "mine"}}``), or ``Observer`` objects; one or several.
        options: All options of a run (rounds, clients, shots, backbone, seed, max_calls, ...: docs/configuration.md),
            and those of the method, task, aggregator and oracle as mappings: ``method_options={"lr": 0.02}``.

    Returns:
        The run, all of whose files are in its folder.

    Raises:
        ConfigError: An option is unknown, has a bad value, or does not go with another. Nothing is written.
        DataError: The data are missing, or do not fit. Nothing is written.
        KeyboardInterrupt: After Ctrl-C. All that was done is saved; ``load_run(folder).resume()`` goes on.
        PromptFedError: The run cannot begin, or cannot go on.
    """
    check_progress(progress, Progress)
    directory = None if folder is None else checked_path(folder, "folder")
    file: Mapping[str, Any] = (
        {} if config is None else config if isinstance(config, Mapping) else read_yaml(checked_path(config, "config"))
    )
    options |= {"class_names": class_names, "test": test, "model": model, "oracle": oracle}
    options |= {"aggregator": aggregator, "engine": engine, "method": method, "data": data}
    options_by_name, objects = config_with_objects(file, _given(options))
    options_by_name, first = beginning_with(options_by_name, init)
    resolved = resolve(options_by_name)
    watching = build_observers(observers)
    label = f"{resolved.task}-{resolved.method}"
    run = Run(RunDirectory.create(directory, resolved, label=label), objects)
    if first is not None:
        save_first_prompt(run.folder, first)
    run._carry_out(progress, watching, is_new=True)
    return run


@said_in_python
def load_run(path: PathLike, **objects: Any) -> Run:
    """Return the run in the folder ``path``, finished or not.

    Args:
        path: The folder.
        objects: What the run was trained with by value, given again: data, class_names, test, model, oracle, method,
            aggregator, engine. Fingerprints are compared.

    Raises:
        RunError: There is no run.
        ConfigError: An object is not the one that the run was trained with, or ``path`` is no path.
    """
    folder = RunDirectory.open(checked_path(path, "path"))
    if not objects:
        return Run(folder)
    if unknown := set(objects) - set(ARGUMENTS):
        raise unknown_name("object of a run", sorted(unknown)[0], ARGUMENTS)
    config, again = objects_again(folder.config, objects)
    for line in compare_objects(config, folder.config, str(path)):
        log.warning(line)
    return Run(folder, again)


@said_in_python
def compare(
    methods: Sequence[str | type[Method]] | str,
    *,
    seeds: int = 1,
    folder: PathLike | None = None,
    search: Mapping[str, Sequence[Any]] | None = None,
    fix_partition: bool = False,
    progress: bool | ComparisonProgress = True,
    observers: ObserverChoices = (),
    **options: Any,
) -> dict[str, Any]:
    """Compare methods fairly: the same partitions, budget and cached features for all, over several seeds.

    Args:
        methods: Their names, or classes of your own, or "all".
        seeds: How many seeds; seed s trains on partition seed s.
        folder: Where all runs and tables go; None: a fresh folder below ``runs``. One that is there is gone on with.
        search: Option of the methods -> values to search, on validation data of a partition of its own.
        fix_partition: Use one partition for all seeds.
        progress: Show progress on stderr, or an object that is told what happens.
        observers: As of ``train``; each run has a record of its own.
        options: As of ``train``; data, model, oracle and aggregator may be Python objects.

    Returns:
        The summary: what ``comparison.json`` in the folder holds, and ``folder``.

    Raises:
        KeyboardInterrupt: After Ctrl-C. The same call with the same folder goes on.
    """
    listed = methods.split(",") if isinstance(methods, str) else methods
    names = [method.strip() if isinstance(method, str) else METHODS.adopt(method) for method in listed]
    grid = {name.removeprefix("method."): tuple(values) for name, values in (search or {}).items()}
    base, objects = config_with_objects({}, _given(options))
    plan = Plan.make(base, names, seeds, fix_partition=fix_partition, grid=grid)
    with (
        live_comparison(progress) as teller,
        comparison_folder(None if folder is None else checked_path(folder, "folder")) as directory,
        stop_on_ctrl_c(teller.note) as should_stop,
    ):
        try:
            observer = told_in(in_python, teller)
            summary, _ = carry_out_comparison(plan, directory, observer, should_stop, objects, observers)
        except Interrupted as stopped:
            hint = f"Saved; the same call with folder='{directory}' goes on"
            raise KeyboardInterrupt(f"stopped: {stopped.where}. {hint}") from stopped
    return {**summary, "folder": str(directory)}


def _given(options: Mapping[str, Any]) -> Options:
    """Return the options that the caller really gave, in the words of ``RunConfig``."""
    values = {name: value for name, value in options.items() if value is not None}
    values = in_sections(values, set(OracleOptions.model_fields) - {"model"})  # model= is the frozen model here
    return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in values.items()}
