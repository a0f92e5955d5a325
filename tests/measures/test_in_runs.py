"""Measures beside accuracy in whole evaluations: the same figures as by hand, and accuracy as it was."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
import torch

from promptfed.config import build_config, parse_settings
from promptfed.errors import ConfigError
from promptfed.evaluation import evaluate
from promptfed.experiment import Experiment
from promptfed.measures.base import build_measures
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.report.measure_table import measure_rows
from promptfed.resolve import resolve
from promptfed.types import ClientPrompt

NAMES = ("macro_f1", "nll", "top_k:2")


def test_measures_stand_beside_accuracy_and_do_not_change_it(setup: Any, toy_task: Any) -> None:
    method = PromptFL(PromptFLConfig(), setup)
    prompts = {
        client: ClientPrompt(method.init_shared() * (1.0 + client)) for client in range(3)
    }  # three different ones, so that all figures are means
    measures = build_measures(NAMES)
    plain = evaluate(method, prompts, toy_task).figures.recorded()
    texts = setup.backbone.calls.texts
    figures = evaluate(method, prompts, toy_task, measures).figures.recorded()
    assert setup.backbone.calls.texts == 2 * texts, "no model is asked more than for accuracy alone"
    found = figures.pop("measures")
    assert figures == plain
    split, classes = toy_task.base_test, toy_task.base_classes
    by_hand = [measures["nll"].figure(method.client_logits(p, classes, split), split.labels) for p in prompts.values()]
    assert found["nll"]["base"] == pytest.approx(fmean(by_hand))
    own = []
    for data in (data for data in toy_task.clients if len(data.classes) > 1 and len(data.test)):
        names = [classes[k] for k in data.classes]
        truth = torch.tensor([data.classes.index(k) for k in data.test.labels.tolist()])
        own.append(measures["macro_f1"].figure(method.client_logits(prompts[data.client], names, data.test), truth))
    assert found["macro_f1"]["local"] == pytest.approx(fmean(own))
    assert found["macro_f1"]["new"] is not None


def test_options_that_name_measures() -> None:
    for text in ("measures=[accuracy,macro_f1,top_k:3]", "measures=macro_f1,accuracy, top_k:3,macro_f1"):
        assert build_config(parse_settings([text])).measures == ("macro_f1", "top_k:3")
    assert build_config({"measures": ["accuracy"]}).measures == ()
    with pytest.raises(ConfigError, match="unknown measure 'f1'"):
        resolve(build_config({"measures": "f1"}))
    with pytest.raises(ConfigError, match="option 'measures'"):
        build_config({"measures": 3})


def test_free_answers_have_no_classes_to_measure() -> None:
    config = resolve(build_config({"task": "cot", "measures": "macro_f1"}))
    with pytest.raises(ConfigError, match="answers of task 'cot' are free text"):
        Experiment.build(config, model_for=lambda form: None)  # type: ignore[arg-type,return-value]


def test_the_table_marks_the_best_of_each_measure() -> None:
    def stage(name: str, base: float, nll: float) -> dict[str, Any]:
        return {"name": name, "measures": {"f": {"base": base, "local": 0.5, "local_std": 0.1}, "n": {"base": nll}}}

    metrics = {
        "zero_shot": stage("zero-shot", 0.5, 1.5), "method": stage("PromptFL", 0.25, 1.25),
        "measures": {"f": {"name": "F\u202e", "better": "higher", "unit": "%"},
                     "n": {"name": "NLL", "better": "lower", "unit": "nats"}},
    }  # fmt: skip
    columns, rows = measure_rows(metrics)
    assert columns == ["local", "base"]
    assert [(row.label, row.cells, row.best[-1]) for row in rows] == [
        ("zero-shot", ("50.0 ± 10.0", "50.0"), True), ("PromptFL", ("50.0 ± 10.0", "25.0"), False),
        ("zero-shot", ("-", "1.500"), False), ("PromptFL", ("-", "1.250"), True),
    ]  # fmt: skip
    assert rows[0].note == "F\\u202e (%), higher is better"
    assert measure_rows({"method": stage("PromptFL", 0.25, 1.25)}) == ([], [])
