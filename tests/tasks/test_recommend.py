"""Recommending: who holds what, which items are new, and what is refused."""

from __future__ import annotations

import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.resolve import complete
from promptfed.tasks import TASKS
from promptfed.tasks.recommend import RecommendConfig, task_of
from promptfed.tasks.sources.interactions import Interactions


def config_of(**options):
    return build_config({"task": "recommend", "data": "shops", **options})


@pytest.fixture(scope="module")
def task():
    return TASKS["recommend"].build(config_of())


def test_shops_are_clients_and_cold_items_are_new(task):
    assert task.domains == ("north", "south", "east", "west", "harbour", "online")
    assert (len(task.base_classes), len(task.new_classes)) == (180, 20)
    cold = set(task.new_classes)
    for data in task.clients:
        for split in (data.train, data.val, data.test):
            assert not any(cold & set(item.history) for item in split.items)
    assert all(item.history for item in task.new_test.items)


def test_the_last_choice_is_a_test_and_the_one_before_it_validation(task):
    held = [data.test.total for data in task.clients]
    assert held == [data.val.total for data in task.clients]
    assert sum(held) == len(task.base_test)
    trained = {(*item.history, task.base_classes[k]) for d in task.clients
               for item, k in zip(d.train.items, d.train.labels.tolist(), strict=True)}  # fmt: skip
    tested = {(*item.history, task.base_classes[k]) for item, k in
              zip(task.base_test.items, task.base_test.labels.tolist(), strict=True)}  # fmt: skip
    assert not trained & tested
    (note,) = task.notes
    assert "Markov over the last 3" in note


def test_defaults():
    config = complete(build_config({"task": "recommend"}))
    assert (config.data, config.method, config.measures) == ("shops", "content_prompt", ("recall:10", "ndcg:10"))
    with pytest.raises(ConfigError, match="method 'fedprompt' does not go with task 'recommend'"):
        complete(config_of(method="fedprompt"))
    with pytest.raises(ConfigError, match="clients=4, but the data have 6"):
        TASKS["recommend"].build(config_of(clients=4))


def test_too_little_is_said():
    small = Interactions("x", ("a", "b", "c"), ("a", "b", "c"), ((0, 1), (2,)), ("all", "all"))
    with pytest.raises(DataError, match="no user with four choices"):
        task_of(config_of(), RecommendConfig(cold_fraction=0), small)
    alone = Interactions("x", ("a",), ("a",), ((0,),), ("all",))
    with pytest.raises(DataError, match="too few to recommend"):
        task_of(config_of(), RecommendConfig(), alone)
