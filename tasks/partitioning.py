"""Partitions: ways to distribute classes, domains or images to clients.

All draws come from the partition seed, so nothing else about a run changes a partition.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from promptfed.errors import ConfigError, unknown_name
from promptfed.printable import printable
from promptfed.seeding import derive, numpy_stream

AUTO = "auto"
BY_CLIENT = "clients"
"""The partition of data that say themselves which client holds what: objects in Python, ``{client name: data}``."""
PARTITIONS = ("classes", "dirichlet", "iid", "quantity", "domain", "csv:FILE", AUTO)
DEFAULT_CLIENTS = 8
EXAMPLES_A_CLIENT = 8
"""By ``auto`` there are so few clients that this many examples are there for each, and two at least."""
DRAWS = 100
"""Dirichlet draws that are tried until every client has its smallest share."""
SMALLEST_SHARE = 2
"""Images that every Dirichlet client must get: one to train on, one to validate on."""


def parse_partition(partition: str) -> tuple[str, str]:
    """Split ``"csv:who.csv"`` into ``("csv", "who.csv")``; others give (name, "").

    Raises:
        ConfigError: The partition is unknown.
    """
    kind, _, file = partition.partition(":")
    if kind == "csv" and not file:
        raise ConfigError("partition 'csv' lacks its file: write --partition csv:FILE (columns path,label,client)")
    if kind != "csv" and partition not in (*PARTITIONS, BY_CLIENT):
        raise unknown_name("partition", partition, PARTITIONS)
    return kind, file


def settle(domains: Sequence[str], examples: int, clients: int | None) -> tuple[str, int | None, str]:
    """Resolve ``auto`` for data with these ``domains`` and number of ``examples``: (partition, clients, why).

    By domain if there are two or more and no more clients than domains; else Dirichlet, with fewer clients than usual
    if there are few examples.
    """
    if len(domains) > 1 and (clients is None or clients <= len(domains)):
        return "domain", clients, f"clients by domain ({', '.join(map(printable, domains))})"
    why = f"{clients} clients are more than the {len(domains)} domains" if len(domains) > 1 else "no domains"
    if clients is None:
        clients = max(2, min(DEFAULT_CLIENTS, examples // EXAMPLES_A_CLIENT))
    return "dirichlet", clients, f"{why}: {clients} clients with shares of each class drawn from a Dirichlet"


def even_blocks(count: int, clients: int) -> list[range]:
    """Cut ``range(count)`` into ``clients`` contiguous blocks whose lengths differ by one at most, longer ones first.

    >>> even_blocks(5, 2)
    [range(0, 3), range(3, 5)]
    """
    short, longer = divmod(count, clients)
    starts = [i * short + min(i, longer) for i in range(clients + 1)]
    return [range(a, b) for a, b in pairwise(starts)]


def fixed_blocks(classes: int, per_client: int) -> list[range]:
    """Cut by FedTPG's rule: ``K = max(1, round(classes / per_client))`` clients, the last one takes the rest.

    Halves are rounded to even, as FedTPG does.

    >>> fixed_blocks(50, 20)  # 2.5 clients
    [range(0, 20), range(20, 50)]
    """
    clients = max(1, round(classes / per_client))
    ends = [*(per_client * (i + 1) for i in range(clients - 1)), classes]
    return [range(a, b) for a, b in pairwise([0, *ends])]


def class_blocks(classes: int, clients: int | None, per_client: int | None) -> list[range]:
    """Return disjoint classes for each client: even blocks, or with ``per_client`` FedTPG's.

    By default there are 8 clients, fewer where there are fewer classes.

    Raises:
        ConfigError: There are more clients than classes.
    """
    if per_client is not None:
        if clients is not None:
            raise ConfigError(f"clients={clients} and classes_per_client={per_client} contradict: give one of them")
        return fixed_blocks(classes, per_client)
    n_clients = min(DEFAULT_CLIENTS, classes) if clients is None else clients
    if n_clients > classes:
        raise ConfigError(
            f"{n_clients} clients are more than the {classes} base classes that partition 'classes' deals out: "
            f"use --clients {classes} or fewer, --set task.base_fraction=1, --partition iid, or for a test of scale "
            "--set task.overlap=true, by which clients hold the same classes and images"
        )
    return even_blocks(classes, n_clients)


def drawn_classes(classes: int, clients: int, per_client: int | None, seed: int) -> Iterator[list[int]]:
    """Draw ``per_client`` different classes for each client, rising, independently of the others.

    By default as many as each of 8 disjoint clients would have, and at least 2. A client's draw does not depend on the
    number of clients.

    Raises:
        ConfigError: ``per_client`` is more than there are classes.
    """
    count = max(2, classes // DEFAULT_CLIENTS) if per_client is None else per_client
    if count > classes:
        raise ConfigError(f"classes_per_client={count} is more than the {classes} base classes: use {classes} or fewer")
    draws = (numpy_stream(seed, "partition", "overlap", client) for client in range(clients))
    return (sorted(draw.choice(classes, count, replace=False).tolist()) for draw in draws)


def domain_groups(domains: Sequence[str], clients: int | None) -> list[tuple[str, ...]]:
    """Return the domains of each client: one each by default, neighbours together if there are fewer clients.

    >>> domain_groups(["photo", "sketch", "painting"], 2)
    [('photo', 'sketch'), ('painting',)]

    Raises:
        ConfigError: There are no domains, or fewer of them than clients.
    """
    if not any(domains):
        raise ConfigError(
            "partition 'domain' needs data with domains, such as PATH/<domain>/<class>/<image>, or in a table "
            "--set task.domain_column=NAME: use --partition classes, dirichlet or iid"
        )
    n_clients = len(domains) if clients is None else clients
    if n_clients > len(domains):
        raise ConfigError(
            f"{n_clients} clients are more than the {len(domains)} domains ({', '.join(domains)}): "
            f"use --clients {len(domains)} or fewer"
        )
    return [tuple(domains[i] for i in block) for block in even_blocks(len(domains), n_clients)]


def iid_shares(images: int, clients: int | None, seed: int) -> list[list[int]]:
    """Return shuffled ``range(images)`` in equal shares.

    Raises:
        ConfigError: There are more clients than images.
    """
    from flwr_datasets.partitioner import IidPartitioner

    n_clients = enough_images(images, clients)
    order = numpy_stream(seed, "partition", "iid").permutation(images)
    return _dealt(IidPartitioner(num_partitions=n_clients), order, [0] * images, n_clients)


def dirichlet_shares(labels: Sequence[int], clients: int | None, alpha: float, seed: int) -> list[list[int]]:
    """Return positions in ``labels`` for each client, every class cut by proportions drawn from Dirichlet(``alpha``).

    Small ``alpha`` is uneven. Where some class has fewer images than there are clients, each image is drawn by itself
    with these proportions. (Cuts are rounded down, so the last client would get an image of every such class, and a
    class with one image would always be the last client's.)

    Raises:
        ConfigError: Some client gets too few images in every draw.
    """
    n_clients = enough_images(len(labels), clients)
    rare = min(Counter(labels).values()) < n_clients
    shares = _dealt_one_by_one(labels, n_clients, alpha, seed) if rare else _cut(labels, n_clients, alpha, seed)
    if shares is not None:
        return shares
    raise ConfigError(
        f"alpha {alpha:g} leaves some of {n_clients} clients with fewer than {SMALLEST_SHARE} of {len(labels)} images, "
        f"in each of {DRAWS} draws: use a larger --alpha or fewer --clients"
    )


def quantity_shares(images: int, clients: int | None, alpha: float, seed: int) -> list[list[int]]:
    """Return shuffled ``range(images)`` in shares whose *sizes* are drawn from Dirichlet(``alpha``).

    This is the non-IID case of FedPrompt (Zhao et al. 2023, arXiv 2208.12268): clients hold more or less of the same
    distribution. Every client has ``SMALLEST_SHARE`` images before the rest is divided, so no draw fails.

    Raises:
        ConfigError: There are more clients than images.
    """
    n_clients = enough_images(images, clients)
    stream = numpy_stream(seed, "partition", "quantity")
    order = stream.permutation(images)
    rest = images - SMALLEST_SHARE * n_clients
    shares = stream.dirichlet(np.full(n_clients, float(alpha))) * rest
    sizes = np.floor(shares).astype(np.int64)
    largest_remainders = np.argsort(sizes - shares, kind="stable")[: rest - int(sizes.sum())]
    sizes[largest_remainders] += 1
    ends = np.cumsum(sizes + SMALLEST_SHARE)
    return [sorted(part.tolist()) for part in np.split(order, ends[:-1])]


def _cut(labels: Sequence[int], clients: int, alpha: float, seed: int) -> list[list[int]] | None:
    """Return shares by the partitioner of other federated work, or None if every draw leaves a client too few."""
    from flwr_datasets.partitioner import DirichletPartitioner

    order = numpy_stream(seed, "partition", "order").permutation(len(labels))
    for attempt in range(DRAWS // 10):  # of ten draws each
        partitioner = DirichletPartitioner(
            num_partitions=clients,
            partition_by="label",
            alpha=float(alpha),
            min_partition_size=SMALLEST_SHARE,
            seed=derive(seed, "partition", "dirichlet", attempt),
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one warning for each draw that left a client empty
                return _dealt(partitioner, order, [labels[i] for i in order], clients)
        except ValueError:
            continue
    return None


def _dealt_one_by_one(labels: Sequence[int], clients: int, alpha: float, seed: int) -> list[list[int]] | None:
    """Return shares of which each image is drawn by itself, or None if every draw leaves a client too few."""
    stream = numpy_stream(seed, "partition", "dirichlet", "one by one")
    label_array = np.asarray(labels)
    for _ in range(DRAWS):
        holders = np.empty(len(label_array), dtype=np.int64)
        for label in sorted(set(labels)):
            inside = np.flatnonzero(label_array == label)
            chances = stream.dirichlet(np.full(clients, float(alpha)))
            holders[inside] = stream.choice(clients, size=len(inside), p=chances)
        if np.bincount(holders, minlength=clients).min() >= SMALLEST_SHARE:
            return [np.flatnonzero(holders == client).tolist() for client in range(clients)]
    return None


def enough_images(images: int, clients: int | None) -> int:
    """Return the number of clients, by default 8.

    Raises:
        ConfigError: There are not two images for each.
    """
    n_clients = DEFAULT_CLIENTS if clients is None else clients
    if images < SMALLEST_SHARE * n_clients:
        largest = max(1, images // SMALLEST_SHARE)
        raise ConfigError(
            f"{n_clients} clients are too many for {images} training images: "
            f"each needs {SMALLEST_SHARE}, so use --clients {largest}{' or fewer' if largest > 1 else ''}"
        )
    return n_clients


def _dealt(partitioner: object, order: np.ndarray, labels: Sequence[int], clients: int) -> list[list[int]]:
    """Return the shares of one of flwr_datasets' partitioners of rows in ``order`` with ``labels``."""
    from datasets import Dataset

    table = Dataset.from_dict({"row": order.tolist(), "label": list(labels)})
    partitioner.dataset = table  # type: ignore[attr-defined]
    return [sorted(partitioner.load_partition(k)["row"]) for k in range(clients)]  # type: ignore[attr-defined]
