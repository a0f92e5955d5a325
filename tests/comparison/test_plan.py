"""What is going to be run, with which options."""

from __future__ import annotations

import pytest

from promptfed.comparison.plan import TUNING_SEED, Plan, parse_grid
from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.method import METHODS


def test_baselines_come_along_once_and_first():
    plan = Plan.make(build_config({}), ["promptfl", "local_only"], 1)
    assert plan.methods == ("zero_shot", "local_only", "promptfl")
    kinds = {
        name: (METHODS[name].access, METHODS[name].model_kind)
        for name in METHODS
        if not METHODS[name].only_texts and not METHODS[name].only_questions
    }
    fitting = {name for name, kind in kinds.items() if kind[0] == "any" or kind == ("white box", "dual encoder")}
    assert set(Plan.make(build_config({}), ["all"], 1).methods) == fitting


def test_the_baselines_are_those_of_the_task():
    plans = {task: Plan.make(build_config({"task": task}), ["zero_shot"], 1) for task in ("forecast", "tool-routing")}
    assert plans["forecast"].methods == ("persistence", "yesterday", "affine_output", "zero_shot")
    assert plans["tool-routing"].methods == ("zero_shot", "description_words")
    assert Plan.make(build_config({"task": "blackbox-text"}), ["fedbpt"], 1).methods == ("zero_shot", "fedbpt")


@pytest.mark.parametrize("level", ["client", "example"])
def test_the_baselines_that_come_along_promise_nothing(level):
    private = {"dp": level, "noise": 2.0}
    plan = Plan.make(build_config({"privacy_options": private}), ["promptfl"], 1)
    assert [plan.config(name, 0).privacy_options["dp"] for name in plan.methods] == ["none", "none", level]


@pytest.mark.parametrize(
    ("methods", "seeds", "words"),
    [
        (["promptfl", "kgcoop", "promptfl"], 1, "method 'promptfl' is named 2 times: name every method once"),
        (["promptfl"], True, "seeds is True"),
        (["promptfl"], "3", "seeds is '3'"),
    ],
)
def test_what_makes_no_sense_is_refused(methods, seeds, words):
    with pytest.raises(ConfigError, match=words):
        Plan.make(build_config({}), methods, seeds)


def test_on_a_black_box_zero_shot_alone_comes_along_and_all_are_those_that_ask_one():
    base = build_config({"task": "blackbox-text", "method_options": {"queries": 48}})
    plan = Plan.make(base, ["fedavg_bbt"], 1)
    assert plan.methods == ("zero_shot", "fedavg_bbt")
    assert plan.config("fedavg_bbt", 0).method_options["queries"] == 48
    assert plan.config("zero_shot", 0).oracle == "minilm"
    found = set(Plan.make(base, ["all"], 1).methods)
    assert found == {name for name in METHODS if METHODS[name].access != "white box"}
    with pytest.raises(ConfigError, match="'promptfl' works on a white box"):
        Plan.make(build_config({"task": "blackbox-text"}), ["promptfl"], 1)


def test_seed_by_seed_and_the_partition_rises_along():
    plan = Plan.make(build_config({"seed": 4, "partition_seed": 7}), ["promptfl"], 2)
    assert plan.seeds == (4, 5)
    assert [seed for _, seed in plan.runs] == [4, 4, 4, 5, 5, 5]
    assert [(c.seed, c.partition_seed) for c in (plan.config("promptfl", s) for s in plan.seeds)] == [(4, 7), (5, 8)]
    fixed = Plan.make(build_config({"partition_seed": 7}), ["promptfl"], 2, fix_partition=True)
    assert [fixed.config("promptfl", s).partition_seed for s in (0, 1)] == [7, 7]


def test_all_have_the_same_data_and_budget_and_the_options_that_they_know():
    base = build_config({"rounds": 3, "shots": 5, "method_options": {"lr": 0.5}, "aggregator": "uniform"})
    plan = Plan.make(base, ["promptfl"], 1)
    zero_shot, promptfl = plan.config("zero_shot", 0), plan.config("promptfl", 0)
    assert promptfl.method_options["lr"] == 0.5
    assert zero_shot.method_options == {}
    assert (zero_shot.aggregator, promptfl.aggregator) == ("mean", "uniform")
    for option in ("task", "data", "rounds", "shots", "partition_seed", "seed", "task_options", "clients"):
        assert getattr(zero_shot, option) == getattr(promptfl, option)


def test_the_search_is_the_same_for_all_and_on_a_partition_of_its_own():
    plan = Plan.make(build_config({}), ["promptfl"], 3, grid=parse_grid(["method.lr=0.01,0.1", "method.n_ctx=2,4"]))
    found = plan.variants("promptfl")
    assert found == [{"lr": a, "n_ctx": b} for a in (0.01, 0.1) for b in (2, 4)]
    assert plan.variants("local_only") == found
    assert plan.variants("zero_shot") == []
    trial = plan.tuning_config("promptfl", found[1])
    assert (trial.seed, trial.partition_seed) == (TUNING_SEED, TUNING_SEED)
    assert trial.partition_seed not in {plan.config("promptfl", s).partition_seed for s in plan.seeds}
    assert (trial.method_options["lr"], trial.method_options["n_ctx"]) == (0.01, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Plan.make(build_config({}), ["promptfi"], 1), "Did you mean 'promptfl'"),
        (lambda: Plan.make(build_config({}), ["promptfl"], 0), "seeds is 0"),
        (lambda: Plan.make(build_config({"method_options": {"ln": 1}}), ["promptfl"], 1), "option .* 'ln'.*mean 'lr'"),
        (lambda: Plan.make(build_config({}), ["promptfl"], 1, grid={"lr": (0.1, -1)}), "'lr' is -1"),
        (lambda: Plan.make(build_config({"seed": 1000}), ["promptfl"], 1, grid={"lr": (0.1,)}), "1000 is reserved"),
        (lambda: parse_grid(["lr=0.1"]), "must look like method.OPTION="),
        (lambda: parse_grid(["method.lr="]), "must look like method.OPTION="),
        (lambda: Plan.make(build_config({"aggregator": "meen"}), ["promptfl"], 1).config("promptfl", 0), "'meen'"),
    ],
)
def test_errors_name_value_and_fix(call, said):
    with pytest.raises(ConfigError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("seeds", "said"), [(10**12, "10,000 at most"), (0, "one seed or more"), (-3, "one seed or more")]
)
def test_the_number_of_seeds_is_bounded(seeds, said):
    with pytest.raises(ConfigError, match=said):
        Plan.make(build_config(), ["promptfl"], seeds)


@pytest.mark.parametrize("option", ["seed", "partition_seed"])
def test_the_last_seed_fits_into_the_files_of_a_run_too(option):
    Plan.make(build_config({option: 2**64 - 2}), ["promptfl"], 2)
    with pytest.raises(ConfigError, match=f"the last of --seeds: option '{option}' is an integer of 65 bits"):
        Plan.make(build_config({option: 2**64 - 2}), ["promptfl"], 3)


@pytest.mark.parametrize("searches", [["method.lr=1,2", "method.lr=3"], ["method.n_ctx=1"] * 2])
def test_an_option_that_is_searched_twice_is_refused(searches):
    with pytest.raises(ConfigError, match="is given twice: put all its values into one"):
        parse_grid(searches)
