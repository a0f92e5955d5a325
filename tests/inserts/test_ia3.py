from __future__ import annotations

from typing import Any

import pytest

from promptfed.inserts.ia3 import DEFAULT_TARGETS, IA3

MATRICES = {"h.0.key": (6, 4), "h.0.value": (6, 4), "h.0.output.dense": (4, 8), "pooler.dense": (4, 4)}


def test_factors_start_at_one_and_have_peft_s_names_and_shapes() -> None:
    kind = IA3(MATRICES, ["h.0.key"], ["h.0.output.dense"])
    values = kind.start()
    assert {name: tuple(t.shape) for name, t in values.items()} == {
        "base_model.model.h.0.key.ia3_l": (6, 1),
        "base_model.model.h.0.output.dense.ia3_l": (1, 8),
    }
    assert all((t == 1).all() for t in values.values())
    assert set(kind.insert(values).ia3) == {"h.0.key", "h.0.output.dense"}
    assert kind.peft_config(values)["feedforward_modules"] == ["h.0.output.dense"]


def test_default_targets_are_peft_s() -> None:
    constants: Any = pytest.importorskip("peft.utils.constants")
    for kind, (outputs, inputs) in DEFAULT_TARGETS.items():
        assert {*outputs, *inputs} == set(constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[kind])
        assert set(inputs) == set(constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[kind])
