"""An experiment knows what it was given, and no engine trains on something else."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from promptfed import engine_choice as choose
from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.experiment import Experiment
from promptfed.resolve import complete, resolve


@pytest.fixture(scope="module")
def whole() -> Experiment:
    options = {"clients": 2, "shots": 1, "rounds": 1, "task_options": {"test_per_class": 1, "val_shots": 1}}
    return Experiment.build(resolve(build_config(options)))


@pytest.mark.parametrize(
    ("values", "words"), [(("task",), "the task of the caller"), (("model_for",), "the model of the caller"), ((), "")]
)
def test_what_was_given_by_value_is_not_left_behind(
    whole: Experiment, monkeypatch: pytest.MonkeyPatch, values: tuple[str, ...], words: str
) -> None:
    given = {"task": whole.task, "model_for": lambda _: whole.setup.model}
    built = Experiment.build(whole.config, **{name: given[name] for name in values})  # type: ignore[arg-type]
    assert built.given == tuple(name.removesuffix("_for") for name in values)
    engine = SimpleNamespace(builds_from_config=True)
    with pytest.raises(ConfigError, match=words) if words else nullcontext():
        built.federation(engine=engine)  # type: ignore[arg-type]
    built.federation()


def test_ray_is_such_an_engine(whole: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("promptfed.engines.ray.RayEngine.__init__", lambda *_, **__: None)
    monkeypatch.setattr("promptfed.engines.ray.RayEngine.close", lambda _: None)
    config = whole.config.model_copy(update={"engine": "ray"})
    with choose.engine_of(config) as engine:
        assert engine is not None
        assert engine.builds_from_config


def test_it_resolves_its_config_itself_and_reads_no_file_that_it_names(tmp_path: Path) -> None:
    options = {"clients": 2, "shots": 1, "rounds": 1, "task_options": {"test_per_class": 1, "val_shots": 1}}
    plain = build_config(options)
    built, resolved = Experiment.build(plain), resolve(plain)
    assert built.config == resolved.model_copy(update={"plugins": plain.plugins})
    assert built.config.method_options["n_ctx"] == 16
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    words = {"vocabulary": f"file:{tmp_path / 'words.txt'}", "candidates": 4}
    config = build_config({"task": "blackbox-text", "method": "fedbdpl", "method_options": words})
    assert complete(config).method_options["vocabulary"] == words["vocabulary"], "a server may have named it"
    assert resolve(config).method_options["vocabulary"] == ["one", "two"]


def test_a_baseline_takes_the_options_whose_values_it_knows(whole: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fed-DPT's cosine loss is none of local-only's, which then keeps its own; the sigmoid loss is."""
    for loss, taken in (("cosine", "cross_entropy"), ("sigmoid", "sigmoid")):
        config = whole.config.model_copy(update={"method": "feddpt", "method_options": {"loss": loss, "n_ctx": 3}})
        baseline = replace(whole, config=config).method("local_only").config.model_dump()
        assert (baseline["loss"], baseline["n_ctx"]) == (taken, 3)
