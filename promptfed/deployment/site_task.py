"""A site's own data as its part of the common task, and the same task without any data, for the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from promptfed.config import RunConfig
from promptfed.deployment.class_names import agreed_names
from promptfed.deployment.fields import LONGEST_TEXT
from promptfed.deployment.messages import HelloAnswer, SiteAgreement, SiteInfo
from promptfed.deployment.site_examples import SiteExamples, examples_of
from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import Sample
from promptfed.printable import printable
from promptfed.tasks import few_shot
from promptfed.tasks.client_assignment import ClientAssignment
from promptfed.tasks.clip_fewshot import as_split, client_data
from promptfed.tasks.sources.base import Source
from promptfed.types import ClientData, FederatedTask, Split

NOTHING = Split((), torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class CountedSplit(Split):
    """A split with numbers of examples and no examples: ``held`` of each class, as the site announced them.

    ``most``: of each class, the most that the run has a site use; None sets no limit. What a site's update counts with
    is bounded by that, so that a large pool adds nothing to its weight.
    """

    held: tuple[int, ...] = ()
    most: int | None = None

    @property
    def total(self) -> int:
        return sum(count if self.most is None else min(count, self.most) for count in self.held)

    def counts(self, classes: int) -> list[int]:
        return list(self.held)


@dataclass(frozen=True)
class SiteData:
    """The data of one site.

    Attributes:
        name: The name of the site.
        source: Its examples and the classes that it has examples of.
        pools: Its examples by use: training, validation and test.
        examples: What they are.
    """

    name: str
    source: Source
    pools: few_shot.Pools
    examples: SiteExamples[Any]

    def counts(self, part: Sequence[int]) -> tuple[int, ...]:
        """Return the number of examples of each class in one of the pools."""
        labels = [self.source.samples[i].label for i in part]
        return tuple(labels.count(label) for label in range(len(self.source.classes)))


def read_site(name: str, data: str, config: RunConfig) -> SiteData:
    """Read the data of a site and split them into pools by the run's partition seed.

    Args:
        name: The name of the site.
        data: Its data source, such as ``folder:PATH`` or ``tsv:PATH``.
        config: The options of the run.

    Raises:
        ConfigError: The kind of ``data`` is unknown, or not one of the run's task.
        DataError: A folder or file is missing, has no examples or fits no layout.
    """
    examples = examples_of(config)
    options, source = examples.options, examples.source(data)
    labels = sorted({sample.label for sample in source.samples})
    if not labels:
        raise DataError(f"data '{data}' has no readable {examples.noun}")
    # The site is the domain: its draws are then those of the same examples as a domain of one big data set.
    samples = tuple(replace(s, label=labels.index(s.label), domain=name) for s in source.samples)
    source = replace(source, classes=tuple(source.classes[label] for label in labels), samples=samples)
    pools = few_shot.pools(source, options.test_fraction, config.partition_seed)
    test = few_shot.capped(source, pools.test, options.test_per_class, config.partition_seed)
    return SiteData(name, source, few_shot.Pools(pools.train, pools.val, test), examples)


def check_classes(data: SiteData, agreed: Sequence[str], *, merged: bool = False) -> None:
    """Check that the run has all classes of a site.

    Args:
        data: The data of the site.
        agreed: The class names of the run.
        merged: Whether a name that differs only in case, blanks or underscores counts as the agreed one.

    Raises:
        DataError: The run has not. The message names the first such class.
    """
    strange = [name for name, one in agreed_names(data.source.classes, agreed, merged=merged).items() if one is None]
    if strange:
        near = agreed_names(strange[:1], agreed, merged=True)[strange[0]]
        hint = f" (it is spelt '{near}' there)" if near else ""
        raise DataError(
            printable(f"class '{strange[0]}' of {data.source.name} is not one of the agreed classes{hint}: ")
            + printable(", ".join(agreed), 300)
            + f"; {data.examples.fix}"
        )


def site_task(data: SiteData, agreement: SiteAgreement, config: RunConfig) -> FederatedTask:
    """Build the task of the run at one site. All clients are in it, and the site's own client alone has data.

    Args:
        data: The data of the site.
        agreement: What all sites agreed on.
        config: The options of the run.

    Returns:
        The task. ``base_test`` has the site's own test examples of base classes, ``new_test`` those of new classes.

    Raises:
        ConfigError: The site is not part of the run.
        DataError: The site has a class that the run has not.
    """
    examples, agreed = examples_of(config), (*agreement.base_classes, *agreement.new_classes)
    check_classes(data, agreed, merged=agreement.merged)
    examples.check_classes(agreed)
    names = [site.name for site in agreement.sites]
    if data.name not in names:
        raise ConfigError(f"site '{data.name}' is not part of this run, whose sites are: {', '.join(names)}")
    number, base = names.index(data.name), len(agreement.base_classes)
    source = _relabel(data.source, agreed, agreement.merged)

    def of_base(part: Sequence[int]) -> list[int]:
        return [i for i in part if source.samples[i].label < base]

    few_shots = few_shot.draw_at_most(
        source,
        of_base(data.pools.train),
        of_base(data.pools.val),
        config.shots,
        examples.options.val_shots,
        config.partition_seed,
        data.name,
    )
    test = of_base(data.pools.test)
    site = agreement.sites[number]
    labels = {source.samples[i].label for i in few_shots.train}
    assignment = ClientAssignment(
        data.name, few_shots, [i for i in test if source.samples[i].label in labels], site.domain
    )
    base_test = as_split(source, test)
    return FederatedTask(
        name=config.task,
        base_classes=agreement.base_classes,
        new_classes=agreement.new_classes,
        clients=tuple(
            examples.at_site(client_data(source, number, assignment)) if k == number else _remote_client(k, site)
            for k, site in enumerate(agreement.sites)
        ),
        base_test=base_test,
        new_test=as_split(source, [i for i in data.pools.test if source.samples[i].label >= base], first_label=base),
        templates=agreement.templates,
        notes=(*examples.skipped(source), *source.notes),
        domain_tests={site.domain: base_test} if site.domain else {},
        form=examples.form,
    )


def agreed_task(config: RunConfig, classes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return base classes, new classes and templates for the agreed ``classes``.

    Raises:
        ConfigError: An option of the run says something of other classes.
    """
    examples = examples_of(config)
    examples.check_classes(classes)
    count = few_shot.base_count(Source("sites", tuple(classes), ()), examples.options.base_fraction)
    return tuple(classes[:count]), tuple(classes[count:]), examples.templates


def remote_task(agreement: SiteAgreement, answers: Sequence[HelloAnswer], config: RunConfig) -> FederatedTask:
    """Build the task at the server: names and numbers of examples, and no examples."""
    clients, examples = [], examples_of(config)
    for client, (site, answer) in enumerate(zip(agreement.sites, answers, strict=True)):
        train = _labels(agreement, answer, answer.train, config.shots)
        val = _labels(agreement, answer, answer.val, examples.options.val_shots)
        test = _labels(agreement, answer, answer.test)
        labels = tuple(label for label, count in enumerate(train.held) if count)
        clients.append(examples.at_server(ClientData(client, site.name, labels, train, val, test, site.domain)))
    return FederatedTask(
        name=config.task,
        base_classes=agreement.base_classes,
        new_classes=agreement.new_classes,
        clients=tuple(clients),
        base_test=NOTHING,
        new_test=NOTHING,
        templates=agreement.templates,
        notes=tuple(f"{answer.site.name}: {note}" for answer in answers for note in answer.notes),
        form=examples.form,
    )


def own_answer(site: SiteInfo, data: SiteData, version: str, key: str) -> HelloAnswer:
    """Describe the data of a site for the server."""
    pools = data.pools
    notes = (*data.examples.skipped(data.source)[:5], *data.source.notes[:5])
    return HelloAnswer.create(
        site=site,
        client=None,
        classes=data.source.classes,
        train=data.counts(pools.train),
        val=data.counts(pools.val),
        test=data.counts(pools.test),
        promptfed=version,
        key=key,
        notes=tuple(printable(note, LONGEST_TEXT) for note in notes),
    )


def simulated_answer(client: int, task: FederatedTask, version: str, key: str) -> HelloAnswer:
    """Describe the data of ``client`` in a simulated task, which every node partitions alike."""
    count, data = len(task.base_classes), task.clients[client]
    train, val, test = (
        tuple(int(n) for n in part.labels.bincount(minlength=count)) for part in (data.train, data.val, data.test)
    )
    return HelloAnswer.create(
        site=SiteInfo.create(name=data.name, domain=data.domain),
        client=client,
        classes=task.base_classes,
        train=train,
        val=val,
        test=test,
        promptfed=version,
        key=key,
    )


def _relabel(source: Source, agreed: Sequence[str], merged: bool) -> Source:
    places, names = {name: i for i, name in enumerate(agreed)}, agreed_names(source.classes, agreed, merged=merged)
    label = [places[names[name] or name] for name in source.classes]
    samples: tuple[Sample, ...] = tuple(replace(s, label=label[s.label]) for s in source.samples)
    return replace(source, classes=tuple(agreed), samples=samples)


def _remote_client(client: int, site: SiteInfo) -> ClientData:
    return ClientData(client, site.name, (), NOTHING, NOTHING, NOTHING, site.domain)


def _labels(
    agreement: SiteAgreement, answer: HelloAnswer, counts: Sequence[int], most: int | None = None
) -> CountedSplit:
    """Return the numbers of a site's examples by base class, of which ``most`` are used. The examples stay there."""
    base = agreement.base_classes
    names = agreed_names(answer.classes, base, merged=agreement.merged)
    counts_by_class = dict.fromkeys(base, 0)
    for name, count in zip(answer.classes, counts, strict=True):
        if (base_name := names[name]) is not None:
            counts_by_class[base_name] += count
    return CountedSplit((), NOTHING.labels, held=tuple(counts_by_class.values()), most=most)
