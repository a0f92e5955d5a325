"""Which training examples keep their label, counted by hand."""

from __future__ import annotations

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.examples.base import TextItem
from promptfed.tasks.centralized import centralize
from promptfed.tasks.few_labels import with_few_labels
from promptfed.types import UNKNOWN_LABEL, ClientData, FederatedTask, Split


def split(name: str, labels: list[int]) -> Split:
    return Split(tuple(TextItem(f"{name} {row}") for row in range(len(labels))), torch.tensor(labels))


def task(*train: list[int]) -> FederatedTask:
    clients = tuple(
        ClientData(k, f"client {k}", tuple(sorted(set(own))), split(f"train {k}", own), split(f"val {k}", [0]),
                   split(f"test {k}", [0, 1]))
        for k, own in enumerate(train)
    )  # fmt: skip
    return FederatedTask("t", ("a", "b"), (), clients, split("base", [0, 1]), split("new", []), ("{}",))


def test_so_many_labels_in_all_balanced_over_classes_and_one_for_each_client() -> None:
    whole = task([0] * 12 + [1] * 3, [1] * 20, [0] * 2)
    few = with_few_labels(whole, 8, seed=0)
    assert sum(len(data.train) for data in few.clients) == 8
    assert all(len(data.train) >= 1 for data in few.clients)
    labels = torch.cat([data.train.labels for data in few.clients])
    assert labels.bincount().tolist() == [4, 4]
    for before, after in zip(whole.clients, few.clients, strict=True):
        texts = dict(zip(before.train.items, before.train.labels.tolist(), strict=True))
        assert {*after.train.items, *after.unlabelled.items} == set(texts)
        assert len(after.train) + len(after.unlabelled) == len(texts)
        assert [texts[item] for item in after.train.items] == after.train.labels.tolist()
        assert [texts[item] for item in after.unlabelled.items] == after.true_labels.tolist()
        assert set(after.unlabelled.labels.tolist()) <= {UNKNOWN_LABEL}
        assert after.classes == before.classes
    assert [summary.train for summary in few.summaries()] == [15, 20, 2]
    assert few.notes == ("8 of 37 training examples keep their label; 3 validation examples have theirs too",)


def test_more_labels_keep_those_that_fewer_would() -> None:
    whole = task([0, 1] * 10, [0, 1] * 10)
    fewer, more = (with_few_labels(whole, labels, seed=3) for labels in (6, 11))
    for a, b in zip(fewer.clients, more.clients, strict=True):
        assert set(a.train.items) <= set(b.train.items)
    assert fewer.clients[0].train.items != with_few_labels(whole, 6, seed=4).clients[0].train.items
    everything = with_few_labels(whole, 99, seed=3)
    assert [len(data.unlabelled) for data in everything.clients] == [0, 0]


def test_all_labels_are_the_task_itself_and_too_few_are_refused() -> None:
    whole = task([0, 1], [0, 1])
    assert with_few_labels(whole, None, seed=0) is whole
    with pytest.raises(ConfigError, match="'labels' is 1, and each of 2 clients needs one: give 2 or more"):
        with_few_labels(whole, 1, seed=0)


def test_pooled_data_have_the_unlabelled_examples_of_all() -> None:
    few = with_few_labels(task([0, 1] * 5, [0, 1] * 5), 6, seed=0)
    pooled = centralize(few).clients[0]
    assert (len(pooled.train), len(pooled.unlabelled), len(pooled.true_labels)) == (6, 14, 14)
