"""`promptfed onboard`: a prompt for a client that never took part, from a few examples and without federation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from promptfed.build_method import build_method
from promptfed.config import validate
from promptfed.errors import ConfigError
from promptfed.evaluation import accuracy
from promptfed.examples.base import ANSWER_CLASSES
from promptfed.export.bundle import Bundle, make_bundle
from promptfed.export.finished import FinishedRun
from promptfed.export.origin import BundleOrigin
from promptfed.measures.selection import Selection
from promptfed.method import METHODS, Method
from promptfed.personalize.finetune import finetune
from promptfed.personalize.interpolate import Sweep, choose, natural_space
from promptfed.personalize.options import OnboardOptions
from promptfed.printable import plain_text
from promptfed.privacy.statement import FILE, promises
from promptfed.report.tables import percent
from promptfed.runs.personalized import AlphaChoice
from promptfed.setup import Setup
from promptfed.tasks import TASKS, few_shot
from promptfed.tasks.blackbox_text import BlackboxTextConfig, columns_of, load_texts
from promptfed.tasks.clip_fewshot import as_split, of_same_classes
from promptfed.tasks.sources import load_source
from promptfed.tasks.sources.base import Source
from promptfed.types import Broadcast, ClientData, ClientPrompt, Split

if TYPE_CHECKING:
    from rich.table import Table

TEST_FRACTION = 0.4
"""Share of a newcomer's examples that is set aside for its test, where they come without splits of their own."""


@dataclass(frozen=True)
class Onboarded:
    """A newcomer's bundle, and the accuracies behind it; None where it has no such examples.

    ``val`` and ``test`` have one value for each of ``alphas``; ``zero_shot`` is on its test examples. ``judged``: the
    classes that the accuracies are among, the newcomer's own, or with ``one_class`` also those of the run.
    """

    bundle: Bundle
    data: ClientData
    zero_shot: float | None
    alphas: tuple[float, ...]
    val: tuple[float, ...]
    test: tuple[float, ...]
    shared: float | None
    deployed: float | None
    judged: tuple[str, ...]

    @property
    def one_class(self) -> bool:
        """Return whether the newcomer's own classes are only one."""
        return len(self.data.classes) == 1

    def figures(self) -> dict[str, Any]:
        """Return all figures as JSON has them."""
        counts = {"train": len(self.data.train), "val": len(self.data.val), "test": len(self.data.test)}
        meta = self.bundle.meta
        return {
            "client": meta.client,
            "name": meta.client_name,
            "classes": list(meta.classes),
            "one_class": self.one_class,
            "judged_among": list(self.judged),
            "images": counts,
            "alpha": meta.alpha,
            "space": meta.space,
            "why": meta.chosen,
            "zero_shot": self.zero_shot,
            "shared": self.shared,
            "personal": self.deployed,
            "curve": {"alphas": list(self.alphas), "val": list(self.val), "test": list(self.test)},
        }

    def table(self) -> Table:
        """Return a table of zero-shot, the shared prompt and the newcomer's own, on its test examples."""
        from rich.table import Table

        data = self.data
        classes = "one class" if self.one_class else f"{len(data.classes)} classes"
        caption = f"{classes}; {len(data.train)} {self.bundle.meta.examples} to train, {len(data.val)} to validate, "
        caption = f"Accuracy in %. {caption}{len(data.test)} to test."
        if self.one_class:
            caption += f" With nothing to choose between, {_among(self.judged)}."
        table = Table("", caption=caption, caption_justify="left")
        table.add_column(plain_text(f"{data.name}, test"), justify="right")
        rows = (("zero-shot", self.zero_shot), ("shared prompt", self.shared), ("its own prompt", self.deployed))
        for label, value in rows:
            table.add_row(label, percent(value))
        return table


def onboard(
    finished: FinishedRun,
    source: Source,
    name: str,
    options: OnboardOptions,
    on_features: Callable[[int, int], None] | None = None,
) -> Onboarded:
    """Tune a prompt for a newcomer with the examples of ``source`` and choose its alpha on its validation examples.

    It starts from the run's prompt for a client that never took part, and gets the next free client number. It trains,
    is tested and predicts on its own classes. Only a method that keeps a prompt for each base class cannot have others;
    there the base classes stay.

    Raises:
        ConfigError: Such a method meets a new class name, or there is nothing to tune.
        DataError: There are too few examples.
    """
    number = max(finished.names) + 1
    method = method_for(finished, source.classes)
    data = newcomer_data(finished, source, method.setup.classes, number, name, options)
    splits = [data.train, data.val, data.test]
    method.setup.model.prepare(
        [item for split in splits for item in split.items],
        on_features,
        patches="patch features" in METHODS[finished.run.config.method].requires,
    )
    prompt = _tuned(finished, method, data, options)
    sweep = Sweep(method, prompt, options.alphas)
    classes, among = method.setup.classes, data.classes
    if len(among) == 1:  # any prompt is right among one class
        classes = (*classes, *(name for name in finished.method.setup.classes if name not in classes))
        among = tuple(range(len(classes)))
    val = sweep.accuracies(classes, data.val, among)
    test = sweep.accuracies(classes, data.test, among)
    figures = sweep.figures(classes, data.val, among)
    selection = Selection.of(method.setup.selection)
    choice = choose(options.alphas, figures, len(data.val), selection, method.setup.model.examples)
    if options.method == "none":
        choice = AlphaChoice(0.0, 0, "the shared prompt as it is (--method none)")
    prompt = replace(prompt, alpha=choice.alpha)
    shared = replace(prompt, alpha=0.0)

    def on_test(judged: Method, deployed: ClientPrompt) -> float | None:
        if not len(data.test) or len(among) == 1:
            return None
        return accuracy(judged, deployed, classes, data.test, among)

    said = promises(finished.run.read_json(FILE), is_tuned=prompt.alpha > 0)
    origin = BundleOrigin(whose="client", privacy=said) if said else None
    return Onboarded(
        bundle=make_bundle(finished.run.config, method, prompt, number, name, finished.examples, choice.why, origin),
        data=data,
        zero_shot=on_test(*_zero_shot(method.setup, data)),
        alphas=options.alphas,
        val=val,
        test=test,
        shared=on_test(method, shared),
        deployed=on_test(method, prompt),
        judged=tuple(classes[k] for k in among),
    )


def _among(classes: tuple[str, ...]) -> str:
    if len(classes) == 1:
        return "there is no accuracy: the run has no other class"
    return f"it chooses among all {len(classes)} classes, the run's and its own"


def newcomer_source(finished: FinishedRun, data: str) -> Source:
    """Load the examples of a newcomer: images or texts, as the run's are.

    Raises:
        ConfigError: The kind is unknown, or the run's examples have no classes.
        DataError: Data are missing or bad.
    """
    config = finished.run.config
    if (member := {"forecaster": "station", "policy": "cell"}.get(finished.method.setup.model.kind)) is not None:
        raise ConfigError(
            f"onboard gives a newcomer a prompt for its classes, and task '{config.task}' has none: a new {member} "
            "uses the shared prompt (the column new of the table)"
        )
    if finished.method.setup.classes == ANSWER_CLASSES:
        raise ConfigError(
            f"onboard gives a newcomer a prompt for its classes, and task '{config.task}' has none: give it the shared "
            "prompt, promptfed export --client 0 --shared"
        )
    kind = TASKS[config.task].Config
    if issubclass(kind, BlackboxTextConfig):
        return load_texts(data, columns_of(validate(kind, config.task_options, "task option")))
    return load_source(data)


def method_for(finished: FinishedRun, classes: tuple[str, ...]) -> Method:
    """Return the run's method for a newcomer with ``classes``, or with the base classes if bound to them."""
    config, setup = finished.run.config, finished.method.setup
    if not bound_to_classes(finished.method, setup, config.method):
        return build_method(config.method, config.method_options, setup.agreeing(classes=classes))
    strange = [name for name in classes if name not in setup.classes]
    if strange:
        raise ConfigError(
            f"{finished.method.name} of this run has a prompt for each of its classes, and '{strange[0]}' is none of "
            f"them ({', '.join(setup.classes)}): give the folders such names, or use a run without class_specific"
        )
    return finished.method


def bound_to_classes(method: Method, setup: Setup, name: str) -> bool:
    """Return whether the prompts' shapes depend on the number of base classes (one prompt for each class)."""
    fewer = build_method(name, method.config.model_dump(), setup.agreeing(classes=setup.classes[:-1]))
    pairs = ((m.init_shared(), m.init_personal(0)) for m in (method, fewer))
    return any(first.mismatch(second) is not None for first, second in zip(*pairs, strict=True))


def newcomer_data(
    finished: FinishedRun, source: Source, classes: tuple[str, ...], number: int, name: str, options: OnboardOptions
) -> ClientData:
    """Split a newcomer's examples: a few to train and validate on, the rest of its test share to test.

    Labels index ``classes``, which hold all of the source's.

    Raises:
        DataError: There is no example to train on.
    """
    config = finished.run.config
    shots = options.shots or config.shots
    val_shots = options.val_shots or int(config.task_options.get("val_shots", 4))
    pools = few_shot.pools(source, TEST_FRACTION, config.partition_seed)
    sample = few_shot.draw_at_most(source, pools.train, pools.val, shots, val_shots, config.partition_seed, name)
    rows = torch.tensor([classes.index(class_name) for class_name in source.classes])
    tested = of_same_classes(source, pools.test, sample.train)
    splits = (as_split(source, part) for part in (sample.train, sample.val, tested))
    train, val, test = (Split(split.items, rows[split.labels]) for split in splits)
    return ClientData(number, name, tuple(sorted(set(train.labels.tolist()))), train, val, test)


def _tuned(finished: FinishedRun, method: Method, data: ClientData, options: OnboardOptions) -> ClientPrompt:
    start = finished.prompt(None)
    if options.method == "none":
        return start
    newcomer_prompt = method.fit_newcomer(finished.state.shared, data)
    if newcomer_prompt is not None:
        prompt = replace(start, tuned=newcomer_prompt)
        return replace(prompt, space=options.space or natural_space(method, prompt))
    personal = method.init_personal(data.client) if finished.keeps_personal_prompts else start.personal
    try:
        [tuned] = finetune(method, [(replace(start, personal=personal), data)], finished.state.round + 1, options)
    except ConfigError as error:
        raise ConfigError(f"{error} (--method none makes a bundle of the shared prompt)") from error
    return replace(tuned, space=options.space or natural_space(method, tuned))


def _zero_shot(setup: Setup, data: ClientData) -> tuple[Method, ClientPrompt]:
    """Return the zero-shot accuracy with the best template on the newcomer's own validation examples."""
    method = build_method("zero_shot", {}, setup)
    update, _ = method.train(Broadcast(1, method.init_shared()), data, method.init_personal(data.client))
    return method, ClientPrompt(update.shared)
