"""One run in a few words."""

from collections.abc import Callable

from promptfed.report.summary import run_summary
from promptfed.runs.directory import RunDirectory

MakeRun = Callable[..., RunDirectory]


def test_finished_run(make_run: MakeRun) -> None:
    run = make_run(rounds=3)
    written = max((run.path / name).stat().st_mtime for name in ("config.yaml", "events.jsonl", "metrics.json"))
    assert run_summary(run.path) == {
        "name": "my-run",
        "method": "promptfl",
        "data": "folder:<photos>",
        "model": "tiny",
        "round": 3,
        "rounds": run.config.rounds,
        "state": "finished",
        "status": "finished",
        "updated": written,
        "local": 0.7,
        "base": 0.6,
        "new": None,
        "hm": None,
    }


def test_unfinished_run_tells_how_far_it_got(make_run: MakeRun) -> None:
    about = run_summary(make_run(rounds=2, finished=False).path)
    assert (about["round"], about["state"], about["base"]) == (2, "unfinished", None)


def test_damaged_run_is_said_to_be_so(make_run: MakeRun) -> None:
    run = make_run(rounds=1)
    (run.path / "metrics.json").write_text("{")
    assert run_summary(run.path)["state"].startswith("damaged: cannot use")
    (run.path / "config.yaml").write_text("no_such_option: 1")
    about = run_summary(run.path)
    assert about["state"].startswith("damaged: ")
    assert "no_such_option" in about["state"]
    assert about["name"] == "my-run"
