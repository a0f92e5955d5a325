"""Every error a user can make: one line, exit code 2, naming the value, what is allowed, and the fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


def pictures(folder, classes, each):
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (8, 8), (9 * i, 60 * k, 40)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def refused(promptfed, tmp_path, monkeypatch):
    """Run a command that must fail: returns its one line. Notes of what happened before may stand above it."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        said = promptfed(*words)
        assert said.code == 2, said
        *notes, line = said.err.splitlines()
        assert line.startswith("error: ")
        assert all(note.startswith("note: ") for note in notes), notes
        assert "Traceback" not in said.err
        return line

    return run


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--task", "clip-fewshoot"], ["clip-fewshoot", "Did you mean 'clip-fewshot'?"]),
        (["--method", "promtfl"], ["promtfl", "Did you mean 'promptfl'?", "promptfolio", " more."]),
        (["--backbone", "tinny"], ["tinny", "'tiny'", "lit"]),
        (["--aggregator", "meen"], ["meen", "Did you mean 'mean'?", "median", " more."]),
        (["--partition", "clases"], ["clases", "classes", "dirichlet"]),
        (["--data", "folder:nowhere"], ["nowhere", "folder"]),
        (["--data", "iconz"], ["iconz", "icons"]),
        (["--clients", "25", "--partition", "classes"], ["25", "24", "--clients 24"]),
        (["--clients", "0"], ["clients", "0", "greater than or equal to 1"]),
        (["--participation", "1.5"], ["participation", "1.5", "less than or equal to 1"]),
        (["--alpha", "-1", "--rounds", "0"], ["alpha", "-1", "rounds"]),
        (["--shots", "200"], ["200", "fewer than", "--shots"]),
        (["--rounds", "many"], ["rounds", "many", "integer"]),
        (["--set", "method.lrr=1"], ["lrr", "'lr'"]),
        (["--set", "lr=0.1"], ["lr", "--set method.lr=VALUE"]),
        (["--set", "method.lr"], ["method.lr", "key=value"]),
        (["--set", "methods.lr=1"], ["methods", "method.NAME"]),
        (["--set", "task.templates=[a photo]"], ["a photo", "{}"]),
        (["--config", "none.yaml"], ["none.yaml", "does not exist"]),
        (["--resume", "nowhere"], ["nowhere", "does not exist"]),
        (["--wrong"], ["--wrong"]),
    ],
)
def test_train_refuses(refused, tmp_path, words, parts):
    line = refused("train", *words)
    for part in parts:
        assert part in line
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir()), "no run directory is left"


def test_resume_takes_no_other_options(refused, finished):
    line = refused("train", "--resume", finished, "--shots", 5, "--seed", 7)
    assert "leave out --shots, --seed" in line


def test_a_run_directory_that_exists_is_not_touched(refused, finished):
    before = (finished / "metrics.json").read_bytes()
    line = refused("train", "--run", finished)
    assert "--resume" in line
    assert (finished / "metrics.json").read_bytes() == before


def test_folder_problems_are_named(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("train", "--data", "folder:empty")
    pictures(tmp_path / "one", ["cat"], 20)
    assert "at least two" in refused("train", "--data", "folder:one")
    pictures(tmp_path / "few", ["cat", "dog", "cow", "pig"], 1)
    line = refused("train", "--data", "folder:few")
    assert "class 'cat'" in line
    assert "no test images (it has one image, and it takes two to train and to test): add some" in line


def test_corrupt_images_are_skipped_or_refused(refused, promptfed, tmp_path):
    folder = pictures(tmp_path / "data", ["cat", "dog", "cow", "pig"], 25)
    (folder / "cat" / "bad.png").write_bytes(b"not a picture")
    assert "bad.png" in refused("train", "--data", f"folder:{folder}", "--strict")
    said = promptfed("tasks", "show", "--data", f"folder:{folder}")
    assert said.code == 0
    assert "bad.png" in said.out.replace("\n", "")


def test_nan_loss_names_client_and_round_and_keeps_the_last_good_checkpoint(refused, tmp_path, small):
    line = refused(
        "train", *small, "--set", "method.lr=1e30", "--set", "method.optimizer=sgd", "--quiet", "--run", tmp_path / "r"
    )
    assert "client" in line
    assert "round" in line
    assert "method.lr" in line
    assert (tmp_path / "r" / "baselines" / "zero_shot" / "checkpoints" / "round-0001").is_dir()


def test_a_damaged_checkpoint_is_said_and_made_again(refused, promptfed, finished, tmp_path):
    """Export needs the last round and refuses; resume goes on from the round before, to the same prompt."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    state = copy / "checkpoints" / "round-0002" / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "state.safetensors" in refused("export", copy, "--client", 0)
    said = promptfed("train", "--resume", copy)
    assert said.code == 0, said.err
    assert "state.safetensors is damaged" in said.err
    assert "going on from round 1" in said.err
    assert state.read_bytes() == whole


def test_deployment_errors(refused, tmp_path, finished):
    assert "--client K or --all" in refused("export", finished)
    assert "client 9" in refused("export", finished, "--client", 9)
    assert "does not exist" in refused("predict", tmp_path / "none", "x.png")
    assert "not a run" in refused("eval", tmp_path)
    assert "methods" in refused("list", "method")


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    from promptfed.cli import main
    from promptfed.errors import ConfigError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        main(["train", "--method", "nothing", "--debug"])


def test_a_fault_of_our_own_is_one_line_and_exit_code_1(promptfed, monkeypatch):
    monkeypatch.setattr("promptfed.commands.listing.known", lambda kind: json.loads("{"))
    said = promptfed("list", "methods")
    assert said.code == 1
    assert "--debug" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--run", ""],
        ["train", "--config", ""],
        ["train", "--resume", ""],
        ["train", "--data-root", ""],
        ["compare", "--methods", "promptfl", "--out", ""],
        ["export", "", "--client", 0],
        ["predict", "", "x.png"],
        ["report", ""],
        ["list", "runs", "--runs", ""],
        ["tasks", "show", "--plot", ""],
    ],
)
def test_an_empty_path_is_refused_instead_of_taken_as_the_folder_one_stands_in(refused, tmp_path, words):
    assert "it is empty: give a path, or leave it out" in refused(*words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["seed", "partition-seed", "shots", "rounds", "clients"])
def test_integers_that_no_file_of_a_run_can_hold_are_refused(refused, option):
    assert "bits: give one of 63" in refused("train", f"--{option}", 2**64)


@pytest.mark.parametrize("option", ["alpha", "round-seconds", "client-seconds"])
def test_numbers_that_are_not_finite_are_refused(refused, option):
    assert "a finite number" in refused("train", f"--{option}", "inf")


def test_options_of_sections_are_finite_too(refused):
    assert "'lr' is inf: give a finite number" in refused("train", "--set", "method.lr=inf")
    assert "bits" in refused("train", "--shots", "9" * 20, "--set", "method.lr=0.1")


@pytest.mark.parametrize("threads", [1025, 10_000, 10**20])
def test_threads_are_bounded(refused, threads):
    assert "'threads' is" in refused("tasks", "show", "--set", f"threads={threads}" if threads < 10**9 else "threads=0")
    assert "less than or equal to 1024" in refused("train", "--threads", threads)


@pytest.mark.parametrize("words", [["--max-calls", 5], ["--max-usd", 1], ["--set", "oracle.x=1"], ["--model", "m"]])
def test_options_of_an_oracle_are_refused_where_none_is_asked(refused, words):
    assert "does not go with task 'clip-fewshot'" in refused("train", *words)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--data", "folder:" + "x" * 300],
        ["train", "--run", "x" * 300],
        ["export", "x" * 300, "--client", 0],
        ["predict", "x" * 300, "a.png"],
        ["report", "x" * 5000],
    ],
)
def test_names_that_the_system_refuses_are_one_line(refused, words):
    assert "File name too long" in refused(*words)


def test_a_run_can_be_begun_inside_of_a_run(refused, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert "unknown backbone 'none'" in refused("train", "--backbone", "none")


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "\\xb1"), ("cp437", "±"), ("cp1251", "±"), ("utf-8", "±")])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_terminal_without_a_letter_loses_no_result(monkeypatch, encoding, shown, errors):
    """The table of a run has a "±", which ASCII lacks; in the POSIX locale Python's streams are no strict ones."""
    import io

    from promptfed.cli import main

    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding, errors=errors))
    with pytest.raises(SystemExit) as ended:
        main(["list", "tasks", "--json"])
    assert ended.value.code == 0
    print("2.1 ± 0.3", flush=True)
    assert f"2.1 {shown} 0.3" in written.getvalue().decode(encoding, "backslashreplace")


@pytest.mark.parametrize("option", ["--backbone", "--method", "--task"])
def test_a_name_of_any_length_is_cut_in_the_message(refused, option):
    said = refused("train", option, "a" * 300_000)
    assert said.startswith(f"error: unknown {option[2:]} 'aaa")
    assert " [...] " in said
    assert "Known: " in said
    assert len(said) < 4_100


def run_in_shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PROMPTFED": f"{sys.executable} -m promptfed.cli"}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$PROMPTFED list tasks | true; echo ${PIPESTATUS[0]}", "0"),
        ("$PROMPTFED --help | true; echo ${PIPESTATUS[0]}", "0"),
        pytest.param("$PROMPTFED list tasks >&-; echo $?", "0", marks=pytest.mark.slow),
        ("$PROMPTFED list nothing 2>&-; echo $?", "2"),
        pytest.param("$PROMPTFED list tasks >&- 2>&- <&-; echo $?", "0", marks=pytest.mark.slow),
        pytest.param("$PROMPTFED list tasks > /dev/full; echo $?", "2", marks=pytest.mark.slow),
    ],
)
def test_output_that_goes_nowhere_is_no_fault(tmp_path, line, code):
    ended = run_in_shell(line, tmp_path)
    assert ended.stdout.strip() == code
    assert "Traceback" not in ended.stderr
    assert ended.stderr == "" or ended.stderr.startswith("error: the system refuses to read or write: No space left")


def test_files_of_a_run_do_not_take_the_place_of_a_closed_stream(tmp_path):
    made = "import os; open('first', 'w').close(); file = open('second', 'w'); print(file.fileno())"
    code = f"from promptfed.cli import _open_closed_streams; _open_closed_streams(); {made.replace('print', 'n = ')}"
    ended = run_in_shell(f"{sys.executable} -c \"{code}; open('number', 'w').write(str(n))\" >&- 2>&- <&-", tmp_path)
    assert ended.returncode == 0
    assert int((tmp_path / "number").read_text()) > 2


@pytest.mark.parametrize(
    "error", [MemoryError(), MemoryError("Unable to allocate 3 TiB"), OSError(24, "Too many files")]
)
def test_conditions_of_the_machine_are_one_line(refused, monkeypatch, error):
    def fail(*_words, **_options):
        raise error

    monkeypatch.setattr("promptfed.resolve.resolve", fail)
    line = refused("tasks", "show")
    assert "not enough memory" in line or "the system refuses to read or write: Too many files" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MPLBACKEND", "nonsense"),
        ("SOURCE_DATE_EPOCH", "none"),
        ("SOURCE_DATE_EPOCH", "1.5"),
        ("SOURCE_DATE_EPOCH", ""),
    ],
)
def test_what_only_figures_read_of_the_environment_ends_no_run(tmp_path, variable, value):
    ended = run_in_shell(f"{variable}={value} $PROMPTFED tasks show --clients 2 --plot who.svg", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "who.svg").stat().st_size > 0


@pytest.mark.parametrize("value", ["0", "", "false", "off"])
def test_debug_can_be_off(refused, monkeypatch, value):
    monkeypatch.setenv("PROMPTFED_DEBUG", value)
    assert "unknown kind 'nothing'" in refused("list", "nothing")


@pytest.mark.parametrize("kind", ["tasks", "aggregators", "methods"])
def test_ctrl_c_in_a_command_is_said_in_one_line(promptfed, monkeypatch, kind):
    import typer

    echo, calls = typer.echo, []

    def interrupted_first(*words, **options):
        calls.append(words)
        if len(calls) == 1:
            raise KeyboardInterrupt
        echo(*words, **options)

    monkeypatch.setattr("typer.echo", interrupted_first)
    said = promptfed("list", kind, "--json")
    assert (said.code, said.out, said.err) == (130, "", "error: interrupted\n")


def test_a_shared_prompt_is_exported_with_a_clients_classes(refused):
    line = refused("export", ".", "--shared")
    assert "--client K" in line
    assert "--shared needs it too, for the classes" in line
    assert "--shared" not in refused("export", ".")
