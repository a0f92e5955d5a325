"""A config is checked as a whole, says everything that is wrong with it, and comes back from its own YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from promptfed.config import RunConfig, build_config, in_sections, parse_settings, read_yaml
from promptfed.errors import ConfigError
from promptfed.processors.pipeline import resolved
from promptfed.python_words import in_python


def test_every_error_is_listed_at_once() -> None:
    wrong = {"rounds": 0, "alpha": -1.0, "participation": 2, "shotz": 3, "precision": "int3", "seed": "abc"}
    with pytest.raises(ConfigError) as caught:
        build_config(wrong)
    said = str(caught.value)
    assert "option 'rounds' is 0: input should be greater than or equal to 1" in said
    assert "option 'alpha' is -1.0: input should be greater than 0" in said
    assert "option 'participation' is 2: input should be less than or equal to 1" in said
    assert "unknown option 'shotz': did you mean 'shots'?" in said
    assert "option 'precision' is 'int3': input should be 'float32', 'bfloat16', 'float16', 'int8' or 'int4'" in said
    assert "option 'seed' is 'abc'" in said
    assert "\n" not in said


def test_an_unknown_option_without_a_near_one_lists_all() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'qqq': .*; known are actors, .*task_options"):
        build_config({"qqq": 1})


def test_an_option_of_the_method_among_those_of_the_run_is_told_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({"lr": 0.1})
    assert "unknown option 'lr': if it is one of the method, write --set method.lr=VALUE; known are" in str(
        caught.value
    )
    assert 'write method_options={"lr": VALUE}; known are' in in_python(str(caught.value))


@pytest.mark.parametrize("key", [1, None, 2.5])
def test_option_names_must_be_text(key: Any) -> None:
    with pytest.raises(ConfigError):
        build_config({key: 3})


@pytest.mark.parametrize("options", [{"rounds": True}, {"quorum": False}, {"clients": True}, {"seed": False}])
def test_a_switch_is_no_number(options: dict[str, Any]) -> None:
    for make in (build_config, lambda given: RunConfig(**given)):
        with pytest.raises(ConfigError, match=r"^option '\w+' is (True|False): give a number$"):
            make(options)
    with pytest.raises(ConfigError, match=r"^clip option 'max_norm' is True: give a number$"):
        resolved(build_config({"processors": [{"clip": {"max_norm": True}}]}).processors)
    assert RunConfig(strict=True).strict


def test_numbers_within_options_are_named_by_their_path() -> None:
    with pytest.raises(ConfigError, match=r"^option 'processors\.clip\.max_norm' is nan: give a finite number$"):
        build_config({"processors": [{"clip": {"max_norm": float("nan")}}]})


def test_a_value_that_holds_itself_is_one_line() -> None:
    mapping: dict[str, Any] = {}
    mapping["a"] = [mapping]
    for option in ("method_options", "processors", "baselines"):
        with pytest.raises(ConfigError, match=rf"^option '{option}' holds itself, or [^\n]{{,200}}$"):
            build_config({option: mapping})


def test_later_layers_win_and_sections_merge() -> None:
    config = build_config(
        {"rounds": 5, "method_options": {"lr": 0.1, "n_ctx": 4}},
        {"method_options": {"lr": 0.2}},
        {"rounds": 7, "task_options": {"val_shots": 2}},
    )
    assert config.rounds == 7
    assert config.method_options == {"lr": 0.2, "n_ctx": 4}
    assert config.task_options == {"val_shots": 2}


def test_layers_are_not_changed() -> None:
    first, second = {"method_options": {"lr": 0.1}}, {"method_options": {"n_ctx": 2}}
    build_config(first, second)
    assert (first, second) == ({"method_options": {"lr": 0.1}}, {"method_options": {"n_ctx": 2}})


@pytest.mark.parametrize("value", [3, None, "lr", [1]])
def test_a_section_must_hold_options(value: Any) -> None:
    for layers in ([{"method_options": value}], [{"method_options": value}, {"method_options": {"lr": 1}}]):
        with pytest.raises(ConfigError, match=r"option 'method_options' is .*'name: value'"):
            build_config(*layers)
    with pytest.raises(ConfigError, match="method_options"):
        parse_settings(["method.lr=1", f"method_options={yaml.safe_dump(value)}"])


def test_options_of_a_black_box_and_shorthands_move_into_their_sections() -> None:
    options = {"max_calls": 5, "oracle_options": {"retries": 1}, "hold_out_classes": 0.25, "rounds": 3}
    assert in_sections(options, ("max_calls", "model")) == {
        "oracle_options": {"retries": 1, "max_calls": 5},
        "task_options": {"base_fraction": 0.75},
        "rounds": 3,
    }
    assert len(options) == 4
    with pytest.raises(ConfigError, match=r"--hold-out-classes is '1': give a share"):
        in_sections({"hold_out_classes": 1}, ())


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        build_config().rounds = 3  # type: ignore[misc]


# --------------------------------------------------------------------------------------------------- YAML

options = st.dictionaries(
    st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aé1:#-'\" \n", max_size=6),
    max_size=3,
)


@given(
    st.builds(
        RunConfig,
        data=st.text("ab:/ #'\"-é", max_size=10),
        clients=st.none() | st.integers(1, 500),
        alpha=st.floats(1e-9, 1e9),
        participation=st.floats(0, 1, exclude_min=True),
        seed=st.integers(0, 2**63),
        strict=st.booleans(),
        method_options=options,
    )
)
def test_yaml_round_trip_is_exact(config: RunConfig) -> None:
    assert build_config(yaml.safe_load(config.to_yaml())) == config


def test_yaml_names_every_option(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(build_config({"rounds": 3}).to_yaml())
    found = read_yaml(path)
    assert list(found) == list(RunConfig.model_fields)
    assert found["rounds"] == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"rounds: [1", "cannot read config file"),
        (b"- 1\n- 2\n", "holds a list, and must"),
        (b"", "is empty: it must hold"),
        (b"\xff\xfe\x00\x01", "holds a str, and must"),
        (b"data: \xe9t\xe9", "cannot read config file.*not UTF-8: byte 0xe9 at place 6"),
        (b"!!python/object/apply:os.getcwd []", "cannot read config file"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml' does not exist"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read config file"):
        read_yaml(tmp_path)


# --------------------------------------------------------------------------------------------------- --set


def test_settings_become_options() -> None:
    settings = ["rounds=3", "method.lr=0.1", "method.init=a photo of a", "task.templates=[x, y]", "data=folder:a=b"]
    assert parse_settings([*settings, "method.lr=0.2", "aggregator.on=true", "method.empty="]) == {
        "rounds": 3,
        "method_options": {"lr": 0.2, "init": "a photo of a", "empty": None},
        "task_options": {"templates": ["x", "y"]},
        "data": "folder:a=b",
        "aggregator_options": {"on": True},
    }


def test_a_whole_section_can_be_set_and_merges() -> None:
    assert parse_settings(["method.lr=1", "method_options={n_ctx: 2}"]) == {"method_options": {"lr": 1, "n_ctx": 2}}


def test_a_date_is_text() -> None:
    assert parse_settings(["data=2026-01-31", "task=2026-13-45"]) == {"data": "2026-01-31", "task": "2026-13-45"}


@pytest.mark.parametrize(
    "setting", ["a=[", "a={", "a=: :", "a='", "method.lr=[1", "a=!!python/name:os", "a=" + "[" * 20]
)
def test_a_value_that_is_not_yaml_is_an_error_of_one_line(setting: str) -> None:
    with pytest.raises(ConfigError, match="the value is not YAML") as caught:
        parse_settings([setting])
    assert f"--set '{setting}'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["1\0", "[" * 2000 + "]" * 2000, "{a: " * 2000, "9" * 5000, "\udce9", "&a [*a]", "{a: 1, a: 2}", ".inf", '"\\0"'],
)
def test_a_value_that_no_option_can_have_is_refused_in_a_line_of_bounded_length(value: str) -> None:
    for key in ("a", "method.lr", "task.words"):
        with pytest.raises(ConfigError, match="the value is not YAML") as caught:
            parse_settings([f"{key}={value}"])
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("setting", ["rounds", "=3", ""])
def test_a_setting_without_key_or_value_shows_the_form(setting: str) -> None:
    with pytest.raises(ConfigError, match="must look like key=value"):
        parse_settings([setting])


def test_an_unknown_section_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown section 'metod'; use method\.NAME, aggregator\.NAME, task\.NAME"):
        parse_settings(["metod.lr=1"])


def test_a_reason_of_our_own_stands_alone() -> None:
    with pytest.raises(
        ConfigError, match=r"^option 'client_batch' is 'many': give a number of clients from 1, or auto$"
    ):
        build_config({"client_batch": "many"})
