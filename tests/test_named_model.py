"""The model that a config names: what goes with its kind, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptfed.config import RunConfig, build_config
from promptfed.errors import ConfigError, RunError
from promptfed.method import METHODS
from promptfed.named_model import ModelOptions, named_model, usual_model
from promptfed.resolve import resolve

WHITE, BLACK = RunConfig(), RunConfig(oracle="clip:tiny", task="blackbox-vision")
TEXTS = RunConfig(task="text-classification", backbone="lm:minilm")


def test_a_kind_says_which_methods_fit() -> None:
    methods = [METHODS[name] for name in ("zero_shot", "promptfl", "fedprompt", "fedbpt")]
    assert [named_model(WHITE).fits(method) for method in methods] == [True, True, False, False]
    assert [named_model(TEXTS).fits(method) for method in methods] == [True, False, True, False]
    assert [named_model(BLACK).fits(method) for method in methods] == [True, False, False, True]
    assert named_model(TEXTS).label == "language model lm:minilm"
    assert named_model(WHITE).label == "backbone tiny"
    assert named_model(BLACK).label == "oracle clip:tiny"


def test_a_task_s_model_is_the_usual_one() -> None:
    assert usual_model(RunConfig(task="blackbox-text")).label == "oracle minilm"
    assert usual_model(WHITE).label == "backbone tiny"


def test_photographs_get_another_model_unless_the_user_chose_one() -> None:
    assert named_model(WHITE).for_photographs(set()) == {"backbone": "lit"}
    assert named_model(BLACK).for_photographs(set()) == {"oracle": "clip:lit"}
    assert not named_model(WHITE).for_photographs({"backbone"})
    assert not named_model(BLACK).for_photographs({"oracle"})
    assert named_model(BLACK).hint().endswith("--oracle clip:lit does")


def test_options_of_the_other_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="oracle option 'max_calls' does not go with task 'clip-fewshot'"):
        resolve(build_config({"oracle_options": {"max_calls": 3}}))
    with pytest.raises(ConfigError, match="asks no black box: leave out --base-url"):
        named_model(WHITE).opened("run 'a'", ModelOptions(base_url="http://127.0.0.1"))
    with pytest.raises(ConfigError, match="has a black box and no backbone"):
        named_model(BLACK).opened("run 'a'", ModelOptions(backbone="lit", asks=False))
    with pytest.raises(ConfigError, match="leave out --max-calls"):
        named_model(WHITE).with_options({"max_calls": 3}, Path("a"))


def test_an_opened_run_has_what_the_command_line_says() -> None:
    assert named_model(WHITE).opened("run 'a'", ModelOptions(backbone="lit")) == {"backbone": "lit"}
    told = BLACK.model_copy(update={"oracle_options": {"base_url": "http://there", "api_key_env": "KEY"}})
    kept = named_model(told).opened("run 'a'", ModelOptions(asks=False))
    assert kept == {"oracle_options": {"base_url": "http://there", "api_key_env": None}}
    assert named_model(BLACK).with_options({"max_calls": 3}, Path("a")).oracle_options["max_calls"] == 3


def test_a_black_box_has_one_process_no_gradients_and_a_template() -> None:
    black = named_model(BLACK)
    with pytest.raises(ConfigError, match="--engine ray does not go with task 'blackbox-vision'"):
        black.check_processes("--engine ray")
    with pytest.raises(ConfigError, match="onboard tunes by gradients, and a black box gives none: search"):
        black.check_gradients("onboard", "search")
    with pytest.raises(RunError, match="has no form"):
        black.check_template({}, Path("run"))
    named_model(WHITE).check_processes("--engine ray")
    named_model(WHITE).check_template({}, Path("run"))


@pytest.mark.parametrize(
    ("model", "threads"), [({}, 1), ({"threads": 2}, 2), ({"backbone": "lit"}, None), ({"oracle": "clip:tiny"}, 1)]
)
def test_a_small_model_has_one_thread_unless_the_user_says_otherwise(
    model: dict[str, object], threads: int | None
) -> None:
    assert named_model(build_config(model)).threads == threads


def test_a_run_over_sites_has_a_model_of_which_each_site_holds_its_own() -> None:
    for config in (WHITE, TEXTS):
        named_model(config).check_processes("a run over sites")
    with pytest.raises(ConfigError, match="a run over sites does not go with task 'blackbox-vision'"):
        named_model(BLACK).check_processes("a run over sites")
