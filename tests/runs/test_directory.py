"""The run directory: where runs go, what they hold, and who may write."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from promptfed.config import RunConfig
from promptfed.errors import PromptFedError, RunError
from promptfed.files.atomic import write_text
from promptfed.runs.directory import RunDirectory

CONFIG = RunConfig(method="promptfl", rounds=3, method_options={"lr": 0.01})


def test_given_folder_keeps_the_config(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "deep" / "run", CONFIG, label="promptfl")
    assert run.path == tmp_path / "deep" / "run"
    assert RunDirectory.open(run.path).config == CONFIG


def test_fresh_folders_differ_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = {RunDirectory.create(None, CONFIG, label="a/b: c").path for _ in range(5)}
    assert len(made) == 5
    assert all(path.parent == Path("runs") and "a-b-c" in path.name for path in made)


def test_folder_of_a_run_is_refused_with_resume(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, CONFIG, label="x")
    with pytest.raises(RunError, match=f"--resume {tmp_path}"):
        RunDirectory.create(tmp_path, CONFIG, label="x")


def test_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"not empty.*--resume PATH"):
        RunDirectory.create(tmp_path, CONFIG, label="x")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file"):
        RunDirectory.create(tmp_path / "thesis.tex", CONFIG, label="x")


def test_empty_folder_and_one_killed_at_birth_are_free(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.4711.partial").write_text("task: cl")
    assert RunDirectory.create(tmp_path, CONFIG, label="x").config == CONFIG


def test_open_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        RunDirectory.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a run directory"):
        RunDirectory.open(tmp_path)
    (tmp_path / "config.yaml").write_text("rounds: [")
    with pytest.raises(PromptFedError, match=r"config\.yaml"):
        RunDirectory.open(tmp_path)


def test_stages_have_folders_of_their_own(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, CONFIG, label="x")
    assert run.stage_folder("promptfl", False) == tmp_path / "checkpoints"
    assert run.stage_folder("local_only", True) == tmp_path / "baselines" / "local_only" / "checkpoints"


def test_metrics_round_trip_as_strict_json(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, CONFIG, label="x")
    assert run.read_metrics() is None
    run.write_metrics({"method": {"local": 0.5, "new": float("nan")}})
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written.pop("checksum")
    assert written == {"method": {"local": 0.5, "new": None}}
    assert run.read_metrics() == {"method": {"local": 0.5, "new": None}}
    for damaged in ("[]", '{"method": {"local": 0.5, "new": null}}', json.dumps({**written, "checksum": "0" * 64})):
        (tmp_path / "metrics.json").write_text(damaged)
        with pytest.raises(RunError, match=r"metrics\.json"):
            run.read_metrics()


def test_one_changed_figure_is_seen(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, CONFIG, label="x")
    run.write_metrics({"method": {"local": 0.5}})
    text = (tmp_path / "metrics.json").read_text()
    (tmp_path / "metrics.json").write_text(text.replace("0.5", "0.7"))
    with pytest.raises(RunError, match="checksum is not that of its content"):
        run.read_metrics()


def test_second_holder_is_refused_until_the_first_leaves(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, CONFIG, label="x")
    with run.lock(), pytest.raises(RunError, match="in use"), RunDirectory.open(tmp_path).lock():
        pass
    with run.lock():
        assert True


def test_lock_holds_against_other_processes_and_ends_with_a_killed_one(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, CONFIG, label="x")
    holder = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-P", "-c", holder, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"held"
        with pytest.raises(RunError, match="in use"), run.lock():
            pass
        child.kill()
    with run.lock():
        assert (tmp_path / ".lock").exists()


def test_a_run_is_waited_for_with_patience(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, CONFIG, label="x")
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with RunDirectory.open(tmp_path).lock():
            held.set()
            free.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    threading.Timer(0.1, free.set).start()
    with run.lock(patience=30):
        assert free.is_set()
    holder.join()


def test_log_is_kept_while_attached(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, CONFIG, label="x")
    logger = logging.getLogger("promptfed")
    before = (logger.level, list(logger.handlers))
    with run.attach_log():
        logging.getLogger("promptfed.federation").info("round %d", 4)
    logging.getLogger("promptfed.federation").warning("too late")
    text = (tmp_path / "run.log").read_text()
    assert "INFO promptfed.federation: round 4" in text
    assert "too late" not in text
    assert (logger.level, list(logger.handlers)) == before


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "metrics.json"
    write_text(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "\ud800")
    assert target.read_text() == "old"
    write_text(target, "new")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("name", ["events.jsonl", "run.log", ".lock", "oracle.sqlite"])
@pytest.mark.parametrize("target", ["mine.txt", "nowhere", "folder"])
def test_a_strangers_run_leads_no_writer_to_other_files(tmp_path: Path, name: str, target: str) -> None:
    run = RunDirectory.create(tmp_path / "run", RunConfig(), label="x")
    (tmp_path / "mine.txt").write_text("mine, without a line end")
    (tmp_path / "folder").mkdir()
    (run.path / name).symlink_to(tmp_path / target)
    with pytest.raises(RunError, match=f"{name} is a link, not a file of the run's own") as refused:
        RunDirectory.open(run.path)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "mine.txt").read_text() == "mine, without a line end"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.json", "partition.json", "run.json", "run.log", ".lock"])
@pytest.mark.parametrize(("make", "kind"), [(Path.mkdir, "folder"), (os.mkfifo, "pipe")])
def test_pipes_and_folders_in_the_place_of_files_are_refused_at_once(
    tmp_path: Path, name: str, make: Callable[[Path], None], kind: str
) -> None:
    run = RunDirectory.create(tmp_path / "run", RunConfig(), label="x")
    make(run.path / name)
    with pytest.raises(RunError, match=f"{name} is a {kind}, not a file"):
        RunDirectory.open(run.path)


def test_a_run_behind_a_link_is_a_run(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", RunConfig(), label="x")
    (tmp_path / "link").symlink_to(run.path)
    assert RunDirectory.open(tmp_path / "link").config == run.config
