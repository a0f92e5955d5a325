"""What a report says of synthetic texts; with AG News, what private evolution must reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import promptfed
from promptfed.synthetic_report import quoting, verdict

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


@pytest.mark.slow
def test_votes_raise_ag_news_and_epsilon_4_keeps_half(tmp_path: Path) -> None:
    """Figures of the reference: five rounds beat round 0 by 3 points, epsilon 4 keeps half, no canary appears."""
    pytest.importorskip("dp_accounting")
    if not (DATA / "ag_news").is_dir():
        pytest.skip("PROMPTFED_DATA has no ag_news")
    from promptfed.commands.opened import open_run
    from promptfed.evaluation import accuracy
    from promptfed.export.finished import FinishedRun
    from promptfed.synthetic_report import SyntheticReport
    from promptfed.types import ClientPrompt

    common = {
        "task": "text-classification", "data": "tsv:ag_news", "data_root": DATA, "method": "private_evolution",
        "rounds": 5, "clients": 200, "shots": 2, "partition": "iid", "baselines": (),
        "task_options": {"test_per_class": 50, "val_shots": 1},
    }  # fmt: skip
    private = {"dp": "client", "delta": 1e-3, "clip": 1.0, "epsilon": 4.0}
    plain = promptfed.train(folder=tmp_path / "plain", **common)
    noised = promptfed.train(
        folder=tmp_path / "noised", **common, privacy_options=private, method_options={"threshold": 0.3}
    )
    report = SyntheticReport(FinishedRun.load(open_run(tmp_path / "plain")))
    method = report.experiment.method()
    start = accuracy(method, ClientPrompt(method.init_shared()), report.task.base_classes, report.task.base_test)
    gain = plain.metrics["method"]["base"] - start
    assert gain >= 0.03
    assert noised.metrics["method"]["base"] - start >= gain / 2
    assert report.nearness()["quoting"] == 0
    for folder in ("plain", "noised"):
        found = SyntheticReport(FinishedRun.load(open_run(tmp_path / folder))).canaries(10)
        assert found["quoting"] == 0
