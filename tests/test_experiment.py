"""An experiment knows what it was given, and no engine trains on something else."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from promptfed import engine_choice as choose
from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.experiment import Experiment, resolve


@pytest.fixture(scope="module")
def whole() -> Experiment:
    options = {"clients": 2, "shots": 1, "rounds": 1, "task_options": {"test_per_class": 1, "val_shots": 1}}
    return Experiment.build(resolve(build_config(options)))


@pytest.mark.parametrize(
    ("values", "words"), [(("task",), "the task that"), (("model_for",), "the model that"), ((), "")]
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
