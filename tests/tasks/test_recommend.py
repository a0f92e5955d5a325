"""Recommending: who holds what, which items are new, and what is refused."""

from __future__ import annotations

import pytest

import promptfed as pf
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


def test_users_are_clients_where_they_are_asked_to_be(task):
    by_user = TASKS["recommend"].build(config_of(partition="user"))
    assert len(by_user.clients) == 300
    assert by_user.partition == "user"
    assert by_user.notes == task.notes  # the same choices, so the same baselines
    assert sum(data.train.total for data in by_user.clients) == sum(data.train.total for data in task.clients)
    for data in by_user.clients:
        assert {item.name for item in data.train.items} == {data.name}
        assert data.test.total <= 1


def test_a_user_without_a_choice_to_train_on_is_no_client():
    chosen = ((0, 1, 2, 3), (1,), (3, 2, 1, 0))
    data = Interactions("x", ("a", "b", "c", "d"), ("a", "b", "c", "d"), chosen, ("all",) * 3)
    task = task_of(config_of(partition="user"), RecommendConfig(cold_fraction=0), data)
    assert [data.name for data in task.clients] == ["user 1", "user 3"]
    assert [data.client for data in task.clients] == [0, 1]
    with pytest.raises(ConfigError, match="clients=3, but the data have 2"):
        task_of(config_of(partition="user", clients=3), RecommendConfig(cold_fraction=0), data)
    assert "1 of 3 users have no choice to train on" in task.notes[-1]


@pytest.mark.slow
def test_users_with_few_choices_gain_from_others(tmp_path):
    steps = {"local_epochs": 10, "lr": 0.1}
    run = pf.train(
        task="recommend", partition="user", rounds=2, method_options=steps, baselines=("local_only",),
        folder=tmp_path / "run", progress=False,
    )  # fmt: skip
    together, alone = (run.metrics[stage]["measures"]["recall:10"]["local_all"] for stage in ("method", "local_only"))
    assert together >= alone + 0.3


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
