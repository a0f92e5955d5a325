"""The task ``multilabel``: images that show several classes each, every class judged by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError, DataError
from promptfed.printable import printable
from promptfed.tasks import clip_fewshot, few_shot
from promptfed.tasks import partitioning as partition
from promptfed.tasks.base import TASKS, Task
from promptfed.tasks.client_assignment import ClientAssignment
from promptfed.tasks.client_datasets import LazyClientDatasets
from promptfed.tasks.client_index import client_index
from promptfed.tasks.clip_fewshot import FewShotConfig, as_split
from promptfed.tasks.sources import icon_collages, labelled_images
from promptfed.tasks.sources.base import Source
from promptfed.types import ClientData, FederatedTask

LOSSES = ("sigmoid", "asymmetric")
"""Losses that judge each class by itself."""
ICONS = "icons"


class MultilabelConfig(FewShotConfig):
    """Options of the task. ``shots`` counts the images whose first label is a class."""

    base_fraction: float = Field(1.0, ge=1, le=1, description="not used: there are no new classes")
    classes: tuple[str, ...] | None = Field(
        None, min_length=2, description="the labels that there may be; none: all that the images have"
    )
    skip_unlabelled: bool = Field(False, description="leave out images without a label, instead of refusing them")


def load(config: RunConfig, options: MultilabelConfig) -> Source:
    """Load the images of ``config``: of its data, or of the list in its partition.

    Raises:
        ConfigError: The kind of data is unknown.
        DataError: A row is wrong, or there are fewer than two classes.
    """
    kind, file = partition.parse_partition(config.partition)
    data, families = (f"csv:{file}", "") if kind == "csv" else (config.data, config.data.partition(":")[2])
    if data.partition(":")[0] == ICONS:
        return icon_collages.source(families)
    if data.partition(":")[0] not in labelled_images.KINDS:
        raise ConfigError(
            f"data '{printable(data)}' is no source of task 'multilabel': write icons, or {labelled_images.FORM}"
        )
    source = labelled_images.source(
        data,
        classes=options.classes,
        skip_unlabelled=options.skip_unlabelled,
        needs_clients=kind == "csv",
        strict=config.strict,
    )
    if len(source.classes) < 2:
        raise DataError(f"data '{source.name}' has one class only ('{printable(source.classes[0])}'): name two or more")
    return source


def build(config: RunConfig) -> FederatedTask:
    """Distribute images by their first label, as clip-fewshot does by their only one; there are no new classes.

    A client's classes are all that its training images show. Its own tests are the images whose first label is the
    first one of a training image.

    Raises:
        ConfigError: Options are not allowed, or the method's loss is for one label.
        DataError: Data are missing or do not fit.
    """
    options = validate(MultilabelConfig, config.task_options, "task option")
    check_loss(config)
    source = load(config, options)
    named_by_file = source.by_client and config.partition.partition(":")[0] in ("csv", partition.AUTO)
    if named_by_file:
        config = config.model_copy(update={"partition": partition.BY_CLIENT})
    config, kind, why = clip_fewshot.settled(config, source)
    clip_fewshot.check_holders(config, kind, source)
    base = len(source.classes)
    pools = few_shot.pools(source, options.test_fraction, config.partition_seed)
    test = few_shot.capped(source, pools.test, options.test_per_class, config.partition_seed)
    pools = replace(pools, test=test)
    require_each_class(source, pools.train, "training")
    require_each_class(source, pools.test, "test")
    decides: dict[str, Any] = config.model_dump(include={"shots", "clients", "alpha", "partition_seed"})
    decides |= {"kind": kind, "options": sorted(options.model_dump().items()), "task": config.task}

    def deal() -> Iterable[ClientAssignment]:
        return clip_fewshot.deal(config, options, kind, source, base, pools)

    index = client_index(deal, config.clients, source, decides)
    clients = LazyClientDatasets(index, lambda number, holding: client_data(source, number, holding))
    if not index.sizes()[:, 2].any():
        raise DataError("no client has test images of a class that it holds: add some, or leave out the splits")
    untested = [summary.name for summary in clients.summaries() if not summary.test]
    several = sum(sum(grades_of(source, i)) > 1 for i in range(len(source.samples)))
    labels = f"{several} of {len(source.samples)} images have several labels"
    return FederatedTask(
        name=config.task,
        base_classes=source.classes,
        new_classes=(),
        clients=clients,
        base_test=as_split(source, pools.test),
        new_test=as_split(source, ()),
        templates=clip_fewshot.templates(config, options, kind),
        notes=(labels, *why, *clip_fewshot.notes(config, options, kind, source, untested, base)),
        domain_tests=clip_fewshot.domain_splits(source, pools.test) if kind == "domain" else {},
        partition=kind,
    )


def check_loss(config: RunConfig) -> None:
    """Raise ConfigError for a method whose loss is for one label."""
    options = config.method_options
    if config.method != "zero_shot" and options.get("loss") not in LOSSES:
        how = f"loss is '{options['loss']}'" if "loss" in options else f"method '{config.method}' has none"
        raise ConfigError(
            f"task 'multilabel' needs a loss for several labels, and {how}: use --set method.loss=sigmoid or "
            "asymmetric with promptfl, kgcoop or another method that takes them"
        )


def grades_of(source: Source, sample: int) -> Sequence[float]:
    """Return 1 for each class that an image of ``source`` shows, and 0 for the others."""
    return source.samples[sample].item.grades


def client_data(source: Source, number: int, holding: ClientAssignment) -> ClientData:
    """Make the data of client ``number``, whose classes are all that its training images show."""
    data = clip_fewshot.client_data(source, number, holding)
    shown = torch.tensor([grades_of(source, i) for i in holding.drawn.train]).sum(0).nonzero()[:, 0]
    return replace(data, classes=tuple(shown.tolist()))


def require_each_class(source: Source, images: Iterable[int], use: str) -> None:
    """Raise DataError if there is a class that no image for ``use`` shows."""
    shown: set[int] = set()
    for i in images:
        shown.update(label for label, grade in enumerate(grades_of(source, i)) if grade > 0)
    for label, name in enumerate(source.classes):
        if label not in shown:
            raise DataError(f"class '{printable(name)}' of data '{source.name}' has no {use} images: add some")


@TASKS.register("multilabel")
class Multilabel(Task):
    """Say which classes an image shows, any number of them: each class is judged by itself."""

    Config = MultilabelConfig
    partitions: ClassVar[tuple[str, ...]] = (
        "dirichlet", "iid", "quantity", "classes", "domain", "csv:FILE", partition.AUTO, partition.BY_CLIENT,
    )  # fmt: skip
    data: ClassVar[str] = ICONS
    method: ClassVar[str] = "promptfl"
    rounds: ClassVar[int] = 8
    measures: ClassVar[tuple[str, ...]] = ("map",)
    method_options: ClassVar[dict[str, Any]] = {"loss": "sigmoid", "class_specific": True}
    build = staticmethod(build)
