"""What a report says of synthetic texts; with AG News, what private evolution must reach."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import promptfed
from promptfed.commands.opened import open_run
from promptfed.evaluation import accuracy
from promptfed.export.finished import FinishedRun
from promptfed.synthetic_report import SyntheticReport, _apart, quoting, verdict
from promptfed.types import ClientPrompt

DATA = Path(os.environ.get("PROMPTFED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def test_texts_that_quote_a_private_one_are_counted() -> None:
    private = ["The parcel from the shop in Bergen never came on Monday", "call me on 0176 555 1234"]
    texts = [
        "they say the parcel from the shop in bergen is lost",  # eight words in a row
        "the parcel from the shop was fine",  # five
        "parcel shop Monday",
        "number 01765551234 is busy",
    ]
    assert quoting(texts, private) == 2
    assert quoting(["a  b\nc"], private) == 0, "spaces are no quotation"


def report(quotes: int, low: float, control: float) -> dict:
    trained, without = {"auc_interval": [low, 0.9]}, {"auc": control}
    return {"canaries": {"quoting": quotes, "trained": trained, "control": without}}


def test_the_verdict_goes_by_quotations_and_then_by_nearness() -> None:
    assert verdict(report(2, 0.4, 0.5)) == "2 synthetic texts quote a planted canary"
    assert "planted ones lie nearer" in verdict(report(0, 0.6, 0.5))
    assert "lie no nearer" in verdict(report(0, 0.6, 0.7))
    assert "lie no nearer" in verdict(report(0, 0.45, 0.4))


def test_clients_that_train_alone_are_apart() -> None:
    assert _apart(range(23), 5) == range(0, 20, 4)
    assert list(_apart(range(3), 5)) == [0, 1, 2]


@pytest.mark.slow
def test_votes_raise_ag_news_and_epsilon_stays_within_its_limit(tmp_path: Path) -> None:
    """With 200 clients and five rounds votes raised 61.5 to 78.0 (docs/results.md); this is the same, smaller."""
    pytest.importorskip("dp_accounting")
    if not (DATA / "ag_news").is_dir():
        pytest.skip("PROMPTFED_DATA has no ag_news")
    common = {
        "task": "text-classification", "data": "tsv:ag_news", "data_root": DATA, "method": "private_evolution",
        "rounds": 3, "clients": 40, "shots": 1, "partition": "iid", "baselines": (),
        "task_options": {"test_per_class": 25, "val_shots": 1},
    }  # fmt: skip
    promptfed.train(folder=tmp_path / "plain", **common)
    report = SyntheticReport(FinishedRun.load(open_run(tmp_path / "plain")))
    method, task = report.experiment.method(), report.task
    prompts = ClientPrompt(method.init_shared()), report.finished.prompt(None)
    before, after = (accuracy(method, prompt, task.base_classes, task.base_test) for prompt in prompts)
    assert after - before >= 0.03
    assert report.nearness()["quoting"] == 0
    assert report.canaries(5)["quoting"] == 0
    private = {"dp": "client", "delta": 1e-3, "clip": 1.0, "epsilon": 4.0}
    few = {"clients": 10, "rounds": 2, "task_options": {"test_per_class": 5, "val_shots": 1}}
    noised = promptfed.train(folder=tmp_path / "noised", **common | few, privacy_options=private)
    promise = json.loads((noised.path / "privacy.json").read_text())
    assert 3 < promise["epsilon"] <= 4
    assert promise["releases"] == 2


@pytest.mark.slow
def test_a_prompt_learns_from_the_texts_of_fedpit_and_canaries_show_that_they_leak(tmp_path: Path) -> None:
    """One round on the bundled requests took fedprompt from 72.5 to 82.5 (docs/synthetic.md); this is less of it."""
    task = {"task": "text-classification", "baselines": ()}
    few = {"tries": 2, "keep": 12}
    promptfed.train(
        folder=tmp_path / "texts", data="texts:requests", method="fedpit", rounds=1, method_options=few, **task
    )
    report = SyntheticReport(FinishedRun.load(open_run(tmp_path / "texts")))
    assert report.nearness()["quoting"] == report.nearness()["near"] == 0
    assert report.privacy()["epsilon"] is None
    assert report.canaries(10)["epsilon_shown"] > 1
    data = f"synthetic:{tmp_path / 'texts'}"
    run = promptfed.train(folder=tmp_path / "prompt", data=data, method="fedprompt", rounds=2, **task)
    assert run.metrics["method"]["base"] > 0.76
