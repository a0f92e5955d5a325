from __future__ import annotations

import pytest
import torch

from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.resolve import resolve
from promptfed.tasks import TASKS
from promptfed.tasks import client_datasets as dealt
from promptfed.tasks.client_assignment import ClientAssignment
from promptfed.tasks.client_datasets import LazyClientDatasets
from promptfed.tasks.few_shot import FewShotSplit
from promptfed.types import ClientData, Split


@pytest.fixture
def clients():
    """Two hundred clients, and the numbers of those that were made."""
    made = []

    def make(number, holding):
        made.append(number)
        train, val, test = (
            Split((), torch.tensor(part)) for part in (holding.drawn.train, holding.drawn.val, holding.test)
        )
        return ClientData(number, holding.name, (), train, val, test, domain=holding.domain)

    return LazyClientDatasets(
        [ClientAssignment(f"c{k}", FewShotSplit([k], [k, k]), [7], f"d{k}") for k in range(200)], make
    ), made


def test_clients_are_made_when_asked_for_and_few_are_kept(clients):
    dealt_out, made = clients
    assert len(dealt_out) == 200
    assert made == []
    assert dealt_out[3] is dealt_out[3]
    assert made == [3]
    assert [data.client for data in dealt_out] == list(range(200))
    assert len(dealt_out._cache) == dealt.KEPT


def test_what_is_made_again_is_the_same(clients):
    dealt_out, _ = clients
    first, last = dealt_out[0], dealt_out[-1]
    assert (last.client, last.name, last.domain) == (199, "c199", "d199")
    list(dealt_out)
    assert dealt_out[0] is not first
    assert dealt_out[0].val.labels.tolist() == first.val.labels.tolist() == [0, 0]
    assert [data.client for data in dealt_out[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        dealt_out[200]


# ----------------------------------------------------------------------------------------- more clients than images


def build(**options):
    small = {"data": "icons:codicons,elusive", "shots": 1, "task_options": {"val_shots": 1, **options.pop("task", {})}}
    config = resolve(build_config(small, options))
    return TASKS["clip-fewshot"].build(config)


def content(data):
    return data.classes, *([item.content_id() for item in split.items] for split in (data.train, data.val, data.test))


def test_any_number_of_clients_may_hold_the_same_images():
    task = build(clients=300, task={"overlap": True, "classes_per_client": 3})
    assert len(task.clients) == 300
    for data in (task.clients[0], task.clients[299]):
        assert (len(data.classes), len(data.train), len(data.val)) == (3, 3, 3)
        assert not {i.content_id() for i in data.train.items} & {i.content_id() for i in data.val.items}
        assert set(data.test.labels.tolist()) == set(data.classes)
    assert len({data.classes for data in task.clients}) > 10


def test_what_a_client_draws_does_not_depend_on_their_number():
    few, many = (build(clients=n, task={"overlap": True}) for n in (5, 50))
    assert [content(data) for data in few.clients] == [content(data) for data in many.clients[:5]]


def test_overlap_goes_with_classes_only():
    with pytest.raises(ConfigError, match="overlap does not go with partition 'iid'"):
        build(partition="iid", task={"overlap": True})


def test_more_classes_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match="classes_per_client=500 is more than"):
        build(clients=4, task={"overlap": True, "classes_per_client": 500})


def test_too_many_clients_are_told_of_the_way_out():
    with pytest.raises(ConfigError, match=r"task\.overlap=true"):
        build(clients=1000)
