"""A comparison on a black box: the same queries for all, accuracy against them, and nothing asked twice."""

from __future__ import annotations

import json

import pytest

from promptfed.blackbox.oracles.base import LocalBackend
from promptfed.comparison.execute import Comparison
from promptfed.comparison.plan import Plan
from promptfed.config import build_config
from promptfed.report.comparison import comparison_markdown
from promptfed.report.comparison_page import write_comparison
from promptfed.runs.directory import RunDirectory


def make_plan(**options):
    small = {
        "task": "blackbox-text", "clients": 2, "shots": 2, "rounds": 2, "task_options": {"test_per_class": 2},
        "method_options": {"queries": 40, "batch_size": 8, "popsize": 5}, "partition": "iid",
    }  # fmt: skip
    return Plan.make(build_config(small, options), ["fedavg_bbt"], 2)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    return folder, Comparison(make_plan(), folder).execute()


@pytest.mark.slow
def test_queries_are_counted_per_client_and_round_and_in_all(compared):
    folder, summary = compared
    assert list(summary["methods"]) == ["zero_shot", "local_only", "fedavg_bbt"]
    assert (summary["oracle"], summary["data"]) == ("minilm", "texts:requests")
    found = summary["methods"]["fedavg_bbt"]
    assert found["queries_a_round"] == 40
    assert found["options"]["queries"] == 40
    log = RunDirectory.open(folder / "fedavg_bbt" / "seed-0").events.read()
    # "spent" repeats the totals until then
    asked, alone = (
        sum(e.get("oracle_queries", 0) for e in log if e["event"] != "spent" and e.get("stage") == stage)
        for stage in ("fedavg_bbt", "local_only")
    )
    assert found["runs"][0]["oracle_queries"] == asked > 2 * 2 * 40
    assert summary["methods"]["local_only"]["runs"][0]["oracle_queries"] == alone
    assert found["oracle_calls"] <= found["oracle_queries"]


def test_the_curve_is_the_mean_over_seeds_after_each_round(compared):
    _, summary = compared
    found = summary["methods"]["fedavg_bbt"]
    assert [point[0] for point in found["query_curve"]] == [80, 160]
    for round in range(2):
        accuracies = [run["query_curve"][round][1] for run in found["runs"]]
        assert found["query_curve"][round][1] == pytest.approx(sum(accuracies) / 2)


def test_everything_is_written_with_a_plot_of_accuracy_against_queries(compared, tmp_path):
    _, summary = compared
    names = [path.name for path in write_comparison(summary, tmp_path)]
    assert "queries.png" in names
    assert (tmp_path / "queries.png").read_bytes().startswith(b"\x89PNG")
    table = comparison_markdown(summary)
    assert "The budget is the same for all methods: at most 40 a client and round." in table
    assert "| | local | base |\n" in table
    assert json.loads((tmp_path / "comparison.json").read_text()) == json.loads(json.dumps(summary))


def test_again_nothing_is_asked_even_with_more_allowed_or_in_another_folder(compared, tmp_path, monkeypatch):
    folder, summary = compared
    monkeypatch.setattr(LocalBackend, "answer", lambda *_: pytest.fail("the oracle was asked"))
    richer = make_plan(oracle_options={"max_calls": 10**6})
    assert Comparison(richer, folder).execute()["methods"] == summary["methods"]
    elsewhere = Comparison(make_plan(), tmp_path).execute()["methods"]["fedavg_bbt"]
    assert elsewhere["oracle_calls"] == 0
    assert elsewhere["base"] == summary["methods"]["fedavg_bbt"]["base"]
