"""A method that can make no step says so at the start, with the least allowance that does."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from promptfed.blackbox.oracles.budget import Limits
from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.method import METHODS
from promptfed.types import NO_PROMPT, Broadcast, Split

SEARCHES = {
    "bbt": {"dim": 4, "n_tokens": 2},
    "fedavg_bbt": {"dim": 4, "n_tokens": 2, "popsize": 3},
    "fedbpt": {"dim": 4, "n_tokens": 2},
    "fedkseed_prompt": {"dim": 4, "n_tokens": 2},
    "fedbbpt": {"n_tokens": 2},
    "zoopfl": {"n_tokens": 2},
    "fedbdpl": {"n_tokens": 3},
    "fedng": {"n_tokens": 3, "finalists": 3},
    "feddtpt": {"n_tokens": 2, "embedder": "hashing"},
    "pfl_gradfree": {"embedder": "hashing"},
    "fedtextgrad": {},
    "fedpob": {"embedder": "hashing"},
    "fedicl": {"questions": ("fire a", "ice b", "mild c")},
}
COMPARE = {"fedlogic": {}, "fedspsc": {}}
"""They refuse to be made with less than they need."""


def scored(method, backend, data, round=1):
    """Distinct prompts that a client has scored in its round."""
    backend.asked.clear()
    broadcast = Broadcast(round, method.init_shared())
    method.train(broadcast, data, method.init_personal(data.client))
    return {str(query.described) for query in backend.asked if hasattr(query, "described")}


def test_every_black_box_method_is_tried():
    assert {name for name in METHODS if METHODS[name].access == "black box"} == {*SEARCHES, *COMPARE}


@pytest.mark.parametrize("batch_size", [2, 3, 16])
@pytest.mark.parametrize("name", SEARCHES)
def test_the_least_allowance_makes_a_step_and_one_less_is_refused(black_setup, backend, text_task, name, batch_size):
    options = {**SEARCHES[name], "batch_size": batch_size}
    data = text_task.clients[1]
    needed = build_method(name, options, black_setup).step_queries(data)
    enough = build_method(name, {**options, "queries": needed}, black_setup)
    enough.check_feasible(text_task.clients)
    floor = 4 if name == "fedtextgrad" else 1
    if needed == floor:
        return
    less = build_method(name, {**options, "queries": needed - 1}, black_setup)
    with pytest.raises(ConfigError, match=rf"needs at least {needed} queries a round.*method\.queries={needed}$"):
        less.check_feasible(text_task.clients)
    assert not backend.asked
    if name == "pfl_gradfree":  # a little less may still do for the client's own tokens, not for the shared ones
        update, _ = less.train(Broadcast(1, less.init_shared()), data, less.init_personal(1))
        assert not update.shared["tokens"].any()
    else:
        assert len(scored(enough, backend, data)) > len(scored(less, backend, data))


@pytest.mark.parametrize("name", COMPARE)
def test_methods_that_compare_prompts_need_one_query_for_each(black_setup, text_task, name):
    with pytest.raises(ConfigError, match="queries") as error:
        build_method(name, {"queries": 1}, black_setup)
    needed = int(re.findall(r"compares (\d+) prompts|takes (\d+)", str(error.value))[0][name == "fedspsc"])
    method = build_method(name, {"queries": needed}, black_setup)
    method.check_feasible(text_task.clients)
    assert method.step_queries(text_task.clients[0]) == needed


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [("fedbpt", {"queries": 40}, 7 * 4), ("bbt", {"queries": 64}, 5 * 4), ("fedbpt", {"perturb": 0.5}, 14 * 4)],
)
def test_the_number_is_of_the_data_at_hand(black_setup, text_task, name, options, needed):
    data = text_task.clients[0]
    method = build_method(name, {**options, "dim": 4, "n_tokens": 2}, black_setup)
    assert method.step_queries(data) == needed
    many = replace(data, train=Split(data.train.items * 6, data.train.labels.repeat(6)))
    assert method.step_queries(many) == needed // 4 * 16


def test_pooled_data_has_the_allowance_of_all(black_setup, text_task):
    method = build_method("bbt", {"queries": 7, "pooled": True, "dim": 4, "n_tokens": 2}, black_setup)
    method.check_feasible(text_task.clients[:1])  # three clients' 21 queries for a generation of 20
    with pytest.raises(ConfigError, match="at least 7 queries"):
        build_method("bbt", {"queries": 6, "pooled": True, "dim": 4, "n_tokens": 2}, black_setup).check_feasible(
            text_task.clients[:1]
        )


@pytest.mark.parametrize(("calls", "allowed"), [(0, True), (1, False), (27, False), (28, True), (None, True)])
def test_a_budget_of_calls_that_allows_no_step_is_refused(black_setup, text_task, calls, allowed):
    method = build_method("fedbpt", {"dim": 4, "n_tokens": 2}, black_setup)
    black_setup.oracle.budget.limits = Limits(calls=calls)
    if allowed:
        return method.check_feasible(text_task.clients)
    with pytest.raises(ConfigError, match=f"--max-calls {calls} allows no step.*28 queries"):
        method.check_feasible(text_task.clients)


@pytest.mark.parametrize("name", [*SEARCHES, *COMPARE, "zero_shot"])
def test_without_examples_nothing_is_trained(black_setup, text_task, name):
    nothing = Split((), torch.zeros(0, dtype=torch.int64))
    method = build_method(name, {**SEARCHES, **COMPARE}.get(name, {}), black_setup)
    with pytest.raises(ConfigError, match="no client holds"):
        method.check_feasible([replace(data, train=nothing, val=nothing) for data in text_task.clients])
    if name != "zero_shot":
        with pytest.raises(ConfigError, match="makes no step"):
            method.check_feasible([replace(data, train=nothing) for data in text_task.clients])


def test_fedbpt_without_a_step_returned_its_start(black_setup, text_task):
    """What the check is for: such a run would print a row of its own for a prompt that nobody has searched for."""
    method = build_method("fedbpt", {"dim": 4, "n_tokens": 2, "queries": 27}, black_setup)
    shared = method.init_shared()
    update, _ = method.train(Broadcast(1, shared), text_task.clients[0], NO_PROMPT)
    assert torch.equal(update.shared["mean"], shared["mean"])
