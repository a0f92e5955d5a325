"""The task ``clip-domains``: the same classes in several domains (photo, sketch, ...), each with clients of its own."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError, DataError, unknown_name
from promptfed.printable import printable
from promptfed.tasks import clip_fewshot, few_shot
from promptfed.tasks.base import TASKS, Task
from promptfed.tasks.client_assignment import ClientAssignment
from promptfed.tasks.clip_fewshot import FewShotConfig
from promptfed.tasks.sources.base import Source
from promptfed.types import FederatedTask

ICON_DATA = "icons:styles"
"""What plain ``icons`` means here: four styles of drawing are domains; the two families of the other task are few."""


class ClipDomainsConfig(FewShotConfig):
    """Options of images in domains."""

    base_fraction: float = Field(1.0, gt=0, le=1, description="share of the classes that clients hold; 1: none is new")
    clients_per_domain: int | None = Field(
        None, ge=1, description="clients that share a domain's images [1, or as --clients says]"
    )
    held_out: tuple[str, ...] | str | None = Field(
        None, description="domains that no client holds, only the tests: leave-one-domain-out"
    )

    @property
    def held(self) -> tuple[str, ...]:
        return (self.held_out,) if isinstance(self.held_out, str) else self.held_out or ()


def build(config: RunConfig) -> FederatedTask:
    """Load the data, give every domain its clients, and set the tests.

    Tests: a client's own and ``base_test`` are of the domains that clients hold, ``domain_tests`` of every domain, also
    of those held out, each over all base classes; ``new_test`` (only with task.base_fraction below 1) of all domains.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    options = validate(ClipDomainsConfig, config.task_options, "task option")
    drawable = replace_icons(config)
    source = clip_fewshot.load(drawable, "domain", "")
    client_domains = trained_domains(source, options)
    count = clients_per_domain(config, options, len(client_domains))
    base = few_shot.base_count(source, options.base_fraction)
    if base < 2:
        raise DataError(f"clients hold one class only ('{source.classes[0]}'): at least two base classes are needed")
    pools, new_test = clip_fewshot.split_pools(config, options, source, base)
    holdings = [holding for domain in client_domains for holding in deal(config, options, source, pools, domain, count)]
    clients = [clip_fewshot.client_data(source, number, holding) for number, holding in enumerate(holdings)]
    candidates = [i for i in pools.test if source.samples[i].domain in client_domains]
    for label in sorted(set(range(base)) - {source.samples[i].label for i in candidates}):
        raise DataError(
            f"class '{printable(source.classes[label])}' of data '{source.name}' has no test images in the domains "
            f"that clients hold ({', '.join(map(printable, client_domains))}): add some, or hold out other domains"
        )
    untested = [client.name for client in clients if not len(client.test)]
    remarks = [f"no client holds domain '{domain}': it is for tests alone" for domain in options.held]
    return FederatedTask(
        name=config.task,
        base_classes=source.classes[:base],
        new_classes=source.classes[base:],
        clients=tuple(clients),
        base_test=clip_fewshot.as_split(source, candidates),
        new_test=clip_fewshot.as_split(source, new_test, first_label=base),
        templates=clip_fewshot.templates(config, options, "domain"),
        notes=(*clip_fewshot.notes(drawable, options, "domain", source, untested, base), *remarks),
        domain_tests=clip_fewshot.domain_splits(source, pools.test),
    )


def replace_icons(config: RunConfig) -> RunConfig:
    """Return ``config`` with the icons of several styles in place of the default icons."""
    return config.model_copy(update={"data": ICON_DATA}) if config.data == "icons" else config


def trained_domains(source: Source, options: ClipDomainsConfig) -> list[str]:
    """Return the domains that clients hold, sorted.

    Raises:
        ConfigError: The data have no domains, or ``held_out`` is wrong.
    """
    domains = list(source.domains)
    if len(domains) < 2:
        raise ConfigError(
            f"task 'clip-domains' needs data with two domains or more, such as PATH/<domain>/<class>/<image>, "
            f"but '{source.name}' has {len(domains) if any(domains) else 'none'}: use --task clip-fewshot"
        )
    for domain in options.held:
        if domain not in domains:
            raise unknown_name("domain to hold out", domain, domains)
    remaining = [domain for domain in domains if domain not in options.held]
    if not remaining:
        raise ConfigError(f"task option held_out names all domains ({', '.join(domains)}): leave one to train on")
    return remaining


def clients_per_domain(config: RunConfig, options: ClipDomainsConfig, domains: int) -> int:
    """Return the number of clients in each domain.

    Raises:
        ConfigError: ``--clients`` is no multiple of the number of domains, or contradicts the task's option.
    """
    count = options.clients_per_domain
    if config.clients is None:
        return count or 1
    each, remainder = divmod(config.clients, domains)
    if remainder or count not in (None, each):
        raise ConfigError(
            f"clients={config.clients} do not fit {domains} domains with {count or 'equally many'} clients each: "
            "leave --clients out and use --set task.clients_per_domain=N"
        )
    return each


def deal(
    config: RunConfig, options: ClipDomainsConfig, source: Source, pools: few_shot.Pools, domain: str, count: int
) -> list[ClientAssignment]:
    """Return ``count`` clients with disjoint images of ``domain``; they share its test images."""
    seed = config.partition_seed
    train, val, test = (
        [i for i in part if source.samples[i].domain == domain] for part in (pools.train, pools.val, pools.test)
    )
    holdings = []
    for k in range(count):
        name = domain if count == 1 else f"{domain} {k}"
        own_train, own_val = (_every(source, part, seed, domain, k, count) for part in (train, val))
        sample = few_shot.draw_at_most(source, own_train, own_val, config.shots, options.val_shots, seed, name)
        holdings.append(
            ClientAssignment(name, sample, clip_fewshot.of_same_classes(source, test, sample.train), domain)
        )
    return holdings


def _every(source: Source, images: list[int], seed: int, domain: str, first: int, step: int) -> list[int]:
    """Return every ``step``-th image of each class from the ``first``, in an order drawn for the domain."""
    if step == 1:
        return images
    groups = few_shot.by_class(source, images)
    return [
        i
        for label, group in groups.items()
        for i in few_shot.shuffled(group, seed, "clients of a domain", domain, source.classes[label])[first::step]
    ]


@TASKS.register("clip-domains")
class ClipDomains(Task):
    """The same classes in several domains, one or more clients each; a domain can be held out for tests."""

    Config = ClipDomainsConfig
    partitions: ClassVar[tuple[str, ...]] = ("domain",)
    build = staticmethod(build)
