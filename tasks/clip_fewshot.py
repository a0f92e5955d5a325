"""The task ``clip-fewshot``: image classes from a few shots each, distributed to clients, some kept as new classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError, DataError
from promptfed.printable import printable
from promptfed.prompt_template import PromptTemplate
from promptfed.tasks import few_shot
from promptfed.tasks import partitioning as partition
from promptfed.tasks.base import TASKS, Task, TaskConfig
from promptfed.tasks.client_assignment import ClientAssignment
from promptfed.tasks.client_datasets import LazyClientDatasets
from promptfed.tasks.client_index import client_index
from promptfed.tasks.sources import checked, load_source
from promptfed.tasks.sources.base import Source
from promptfed.types import ClientData, FederatedTask, Split

PHOTO_TEMPLATES = (
    "a photo of a {}.",
    "a good photo of a {}.",
    "a close-up photo of a {}.",
    "a picture of a {}.",
    "an image of one {}.",
    "a blurry photo of the {}.",
    "a drawing of a {}.",
    "{}",
)
ICON_TEMPLATES = (
    "an icon of a {}.",
    "a pictogram of a {}.",
    "a symbol of a {}.",
    "a simple drawing of a {}.",
    "a glyph that shows a {}.",
    "a {} icon",
    "a photo of a {}.",
    "{}",
)
LISTED_NOTES = 20
NAMED = ("csv", partition.BY_CLIENT)
"""Partitions in which the data name the client of each example, and so the classes that clients hold."""


class DealtConfig(TaskConfig):
    """Shares of the data for training, validation and test, ``--set task.NAME=VALUE`` on the command line."""

    val_shots: int = Field(4, ge=1, description="validation images of each class that a client keeps")
    base_fraction: float = Field(0.5, gt=0, le=1, description="share of the classes that clients hold; 1: none is new")
    test_fraction: float = Field(
        0.4, gt=0, lt=1, description="share set aside for test where the data has no test split"
    )
    test_per_class: int | None = Field(None, ge=1, description="limit on the test images of each class")


class FewShotConfig(DealtConfig):
    """Options of every task with images."""

    templates: tuple[str, ...] | None = Field(None, min_length=1, description="texts with {} for the class name")

    @field_validator("templates")
    @classmethod
    def _hold_a_name(cls, templates: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for text in templates or ():
            if text.count("{}") != 1 or text.replace("{}", "").count("{") + text.replace("{}", "").count("}"):
                raise ValueError(f"template '{text}' must hold {{}} once, in the place of the class name")
        return templates


class ClipFewshotConfig(FewShotConfig):
    """Options of the task."""

    classes_per_client: int | None = Field(
        None, ge=1, description="FedTPG's rule of so many classes a client (it has 20)"
    )
    overlap: bool = Field(
        False, description="clients draw classes and images that others may hold too: any number of clients"
    )


def build(config: RunConfig, source: Source | None = None) -> FederatedTask:
    """Load the data, unless ``source`` is given, distribute it, and set the tests.

    Nothing is drawn or decoded except to check files. Tests: a client's own is of its own classes (partitions domain
    and csv: and of its own domain), ``base_test`` of all base classes, ``new_test`` of the classes that no client
    holds.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    options = validate(ClipFewshotConfig, config.task_options, "task option")
    kind, file = partition.parse_partition(config.partition)
    return partition_clients(config, options, source or load(config, kind, file), templates(config, options, kind))


def partition_clients(
    config: RunConfig,
    options: DealtConfig,
    source: Source,
    templates: tuple[str, ...],
    form: PromptTemplate | None = None,
) -> FederatedTask:
    """Distribute ``source`` by the partition of ``config``; ``form`` is for tasks whose model is a black box."""
    config, kind, why = settled(config, source)
    check_holders(config, kind, source)
    # Data with named clients say themselves which classes are held; elsewhere the leading share of the classes is.
    fixed_base = source.base_classes if kind in NAMED else None
    base = fixed_base if fixed_base is not None else few_shot.base_count(source, options.base_fraction)
    if base < 2:
        raise DataError(f"clients hold one class only ('{source.classes[0]}'): at least two base classes are needed")
    base_pools, new_test = split_pools(config, options, source, base)
    decides = {**config.model_dump(include={"shots", "clients", "alpha", "partition_seed"}), "kind": kind, "base": base}
    decides |= {"options": sorted(options.model_dump().items()), "task": config.task}
    index = client_index(lambda: deal(config, options, kind, source, base, base_pools), config.clients, source, decides)
    clients = LazyClientDatasets(index, lambda number, holding: client_data(source, number, holding))
    if not index.sizes()[:, 2].any():
        raise DataError("no client has test images of a class that it holds: add some, or leave out the splits")
    untested = [summary.name for summary in clients.summaries() if not summary.test]
    return FederatedTask(
        name=config.task,
        base_classes=source.classes[:base],
        new_classes=source.classes[base:],
        clients=clients,
        base_test=as_split(source, base_pools.test),
        new_test=as_split(source, new_test, first_label=base),
        templates=templates,
        notes=(*why, *notes(config, options, kind, source, untested, base)),
        domain_tests=domain_splits(source, base_pools.test) if kind == "domain" else {},
        form=form,
        partition=kind,
    )


def settled(config: RunConfig, source: Source) -> tuple[RunConfig, str, tuple[str, ...]]:
    """Return ``config`` with ``auto`` resolved by the data, the kind of its partition, and a note about that."""
    kind, _ = partition.parse_partition(config.partition)
    if kind != partition.AUTO:
        return config, kind, ()
    domains = [domain for domain in source.domains if domain]
    n_examples = sum(sample.split != "test" for sample in source.samples)
    kind, clients, why = partition.settle(domains, n_examples, config.clients)
    if kind == "dirichlet":
        why += f" ({config.alpha:g})"
    updated = config.model_copy(update={"partition": kind, "clients": clients})
    return updated, kind, (f"partition auto: {why}; --partition says otherwise",)


def split_pools(config: RunConfig, options: DealtConfig, source: Source, base: int) -> tuple[few_shot.Pools, list[int]]:
    """Return the images of base classes by use, and the test images of new classes.

    Raises:
        DataError: A class has none.
    """
    pools = few_shot.pools(source, options.test_fraction, config.partition_seed)
    test = few_shot.capped(source, pools.test, options.test_per_class, config.partition_seed)
    base_pools = few_shot.Pools(
        [i for i in pools.train if source.samples[i].label < base],
        [i for i in pools.val if source.samples[i].label < base],
        [i for i in test if source.samples[i].label < base],
    )
    require_each_class(source, range(base), base_pools.train, "training")
    require_each_class(source, range(base), base_pools.test, "test")
    new_test = [i for i in test if source.samples[i].label >= base]
    require_each_class(source, range(base, len(source.classes)), new_test, "test")
    return base_pools, new_test


def check_holders(config: RunConfig, kind: str, source: Source) -> None:
    """Raise ConfigError unless partition and data agree on whether the data name their clients."""
    if source.by_client and kind != partition.BY_CLIENT:
        raise ConfigError(
            f"data '{source.name}' says which client holds what, so partition '{config.partition}' is of no use: "
            "leave it out"
        )
    if kind == partition.BY_CLIENT and not source.by_client:
        raise ConfigError(
            f"partition '{kind}' needs data that name their clients, in Python as {{client name: data}}; data "
            f"'{printable(source.name)}' does not: leave it out"
        )


def domain_splits(source: Source, test: Iterable[int]) -> dict[str, Split]:
    """Return domain -> its images among ``test``."""
    by_domain: dict[str, list[int]] = {}
    for i in test:
        by_domain.setdefault(source.samples[i].domain, []).append(i)
    return {domain: as_split(source, by_domain[domain]) for domain in sorted(by_domain)}


def templates(config: RunConfig, options: FewShotConfig, kind: str) -> tuple[str, ...]:
    """Return the hand-written sentences of the run: the option's, or those that fit the data."""
    icons = config.data.partition(":")[0] == "icons" and kind != "csv"
    return options.templates or (ICON_TEMPLATES if icons else PHOTO_TEMPLATES)


def load(config: RunConfig, kind: str, file: str) -> Source:
    """Load the data of ``config``, or of the CSV ``file`` of its partition."""
    if kind == "csv":
        from promptfed.tasks.sources import csv_file

        return checked(csv_file.source(file, strict=config.strict), strict=config.strict)
    root = Path(config.data_root) if config.data_root is not None else None
    return load_source(config.data, data_root=root, strict=config.strict)


def deal(
    config: RunConfig, options: DealtConfig, kind: str, source: Source, base: int, pools: few_shot.Pools
) -> Iterable[ClientAssignment]:
    """Assign ``pools``, which hold base classes only, to clients by the partition."""
    per_client, overlap = None, False
    if isinstance(options, ClipFewshotConfig):
        per_client, overlap = options.classes_per_client, options.overlap
    for name, value in (("classes_per_client", per_client), ("overlap", overlap)):
        if value and kind != "classes":
            raise ConfigError(f"task option {name} does not go with partition '{kind}', only with 'classes'")
    shots, val_shots, seed = config.shots, options.val_shots, config.partition_seed
    samples = source.samples
    holdings: list[ClientAssignment] = []
    if overlap:
        return deal_overlapping(config, val_shots, per_client, source, base, pools)
    if kind == "classes":
        for k, block in enumerate(partition.class_blocks(base, config.clients, per_client)):
            train, val, test = (
                [i for i in p if samples[i].label in block] for p in (pools.train, pools.val, pools.test)
            )
            name = f"client {k}"
            # No client names: all holders of a class have the same images of it, however many clients there are.
            sample = few_shot.draw_exactly(source, train, val, shots, val_shots, seed, "holder")
            holdings.append(ClientAssignment(name, sample, test))
    elif kind in ("domain", *NAMED):
        domain_order = {samples[i].domain: None for i in pools.train if kind == "domain" or samples[i].domain}
        domains = list(domain_order) if kind == partition.BY_CLIENT else sorted(domain_order, key=_by_number)
        if kind in NAMED and config.clients not in (None, len(domains)):
            source_of_names = "the CSV names" if kind == "csv" else "the data name"
            raise ConfigError(f"clients={config.clients}, but {source_of_names} {len(domains)}: leave --clients out")
        for group in partition.domain_groups(domains, config.clients):
            train, val, test = (
                [i for i in p if samples[i].domain in group] for p in (pools.train, pools.val, pools.test)
            )
            name = " + ".join(group)
            sample = few_shot.draw_at_most(source, train, val, shots, val_shots, seed, name)
            domain = name if kind == "domain" else ""
            if kind == partition.BY_CLIENT and not test:  # the client has no test images: the common tests
                test = [i for i in pools.test if not samples[i].domain]
            holdings.append(ClientAssignment(name, sample, of_same_classes(source, test, sample.train), domain))
    else:
        holdings = deal_shares(config, val_shots, kind, source, pools)
    return holdings


def deal_overlapping(
    config: RunConfig, val_shots: int, per_client: int | None, source: Source, base: int, pools: few_shot.Pools
) -> Iterator[ClientAssignment]:
    """Draw classes, and images of them, for each client independently of the others; any number of clients."""
    seed, clients = config.partition_seed, config.clients or partition.DEFAULT_CLIENTS
    by_class = [few_shot.by_class(source, part) for part in (pools.train, pools.val, pools.test)]
    for k, classes in enumerate(partition.drawn_classes(base, clients, per_client, seed)):
        train, val, test = ([i for label in classes for i in part.get(label, [])] for part in by_class)
        name = f"client {k}"
        sample = few_shot.draw_exactly(source, train, val, config.shots, val_shots, seed, name)
        yield ClientAssignment(name, sample, test)


def deal_shares(
    config: RunConfig, val_shots: int, kind: str, source: Source, pools: few_shot.Pools
) -> list[ClientAssignment]:
    """Cut a pool into shares; it holds ``shots`` images of each class *for each client on average*.

    The pool is limited, not the shares: cutting every share to ``shots`` would even out what Dirichlet made uneven.
    """
    seed, shots = config.partition_seed, config.shots
    clients = config.clients or partition.DEFAULT_CLIENTS
    val_labels = {source.samples[i].label for i in pools.val}
    with_val = few_shot.thinned(
        source,
        [i for i in pools.train if source.samples[i].label not in val_labels],
        clients * (shots + val_shots),
        seed,
        "train",
    )
    without = few_shot.thinned(
        source, [i for i in pools.train if source.samples[i].label in val_labels], clients * shots, seed, "train"
    )
    val = few_shot.thinned(source, pools.val, clients * val_shots, seed, "val")
    rows = [*with_val, *without, *val]
    labels = [source.samples[i].label for i in rows]
    if kind == "iid":
        shares = partition.iid_shares(len(rows), config.clients, seed)
    elif kind == "quantity":
        shares = partition.quantity_shares(len(rows), config.clients, config.alpha, seed)
    else:
        shares = partition.dirichlet_shares(labels, config.clients, config.alpha, seed)
    from_val, holdings = set(val), []
    for k, share in enumerate(shares):
        rows_of_client = [rows[position] for position in share]
        train, val_rows = [i for i in rows_of_client if i not in from_val], [i for i in rows_of_client if i in from_val]
        name = f"client {k}"
        sample = few_shot.draw_at_most(source, train, val_rows, shots, val_shots, seed, name, keep_all=True)
        holdings.append(ClientAssignment(name, sample, of_same_classes(source, pools.test, sample.train)))
    return holdings


def of_same_classes(source: Source, images: Iterable[int], train: Iterable[int]) -> list[int]:
    """Return the ``images`` whose class occurs in ``train``: a client is tested on its own classes only."""
    labels = {source.samples[i].label for i in train}
    return [i for i in images if source.samples[i].label in labels]


def client_data(source: Source, number: int, holding: ClientAssignment) -> ClientData:
    """Make the data of client ``number``."""
    train, val, test = (as_split(source, part) for part in (holding.drawn.train, holding.drawn.val, holding.test))
    classes = tuple(sorted(set(train.labels.tolist())))
    return ClientData(number, holding.name, classes, train, val, test, domain=holding.domain)


def as_split(source: Source, images: Iterable[int], first_label: int = 0) -> Split:
    """Return samples in order of their class; ``first_label`` becomes label 0."""
    order = sorted(images, key=lambda i: source.samples[i].label)
    labels = [source.samples[i].label - first_label for i in order]
    return Split(tuple(source.samples[i].item for i in order), torch.tensor(labels, dtype=torch.int64))


def require_each_class(source: Source, classes: range, images: Iterable[int], use: str) -> None:
    """Raise DataError if one of ``classes`` has no image for ``use``."""
    labels = {source.samples[i].label for i in images}
    for label in classes:
        if label not in labels:
            raise DataError(
                f"class '{printable(source.classes[label])}' of data '{source.name}' has no {use} images"
                f"{_why_none(source, label)}: add some"
            )


def _why_none(source: Source, label: int) -> str:
    """Return an explanation why a class has no images of some use, where the images themselves are there."""
    samples = [sample for sample in source.samples if sample.label == label]
    reasons = [note for note in source.notes if note.startswith(("left out", "not trained on"))]
    counts = Counter((sample.domain, sample.split) for sample in samples)
    if samples and not any(split for _, split in counts) and max(counts.values()) == 1:
        each = (
            "it has one image" if len(samples) == 1 else f"its {len(samples)} images are one for each domain or client"
        )
        reasons.insert(0, f"{each}, and it takes two to train and to test")
    return f" ({'; '.join(reasons)})" if reasons else ""


def notes(
    config: RunConfig, options: DealtConfig, kind: str, source: Source, untested: Sequence[str], base: int
) -> tuple[str, ...]:
    """Return notes about the data for the user: images left out, ``untested`` clients, options of no use."""
    lines = [f"skipped unreadable image {name}" for name in source.skipped[:LISTED_NOTES]]
    if len(source.skipped) > LISTED_NOTES:
        lines.append(f"skipped {len(source.skipped) - LISTED_NOTES} more unreadable images")
    lines += source.notes
    if kind == "csv" and config.data != RunConfig.model_fields["data"].default:
        lines.append(f"images come from the CSV of --partition; --data {config.data} is not used")
    if kind in NAMED and options.base_fraction < 1:
        lines.append(
            f"{'the CSV says' if kind == 'csv' else 'the data say'} which classes no client holds: "
            "--hold-out-classes and task.base_fraction are not used"
        )
    elif base == len(source.classes) and options.base_fraction < 1:
        lines.append(
            f"a share of {1 - options.base_fraction:g} of {base} classes held out would leave fewer than two new or "
            f"two base classes: all {base} are base classes, none is new"
        )
    if kind in ("domain", *NAMED):
        domains = {sample.domain for sample in source.samples if sample.label < base and sample.split != "test"}
        if absent := [domain for domain in source.domains if domain and domain not in domains]:
            listed = ", ".join(map(printable, absent))
            lines.append(f"without a client, since nothing of a base class is there to train on: {listed}")
    if untested:
        names = ", ".join(untested[:LISTED_NOTES])
        more = f" and {len(untested) - LISTED_NOTES} more" if len(untested) > LISTED_NOTES else ""
        lines.append(f"no test images of their own, so no local accuracy: {names}{more}")
    return tuple(lines)


def _by_number(name: str) -> tuple[int, str]:
    """Return a sort key that puts "2" before "10", and numbers before words."""
    return (int(name), "") if name.isdecimal() else (2**63, name)


@TASKS.register("clip-fewshot")
class ClipFewshot(Task):
    """Classify images from a few shots of each class; some classes stay unseen by every client."""

    Config = ClipFewshotConfig
    object_kind: ClassVar[Literal["images", "texts", ""]] = "images"
    build = staticmethod(build)
