"""The same runs from Python as from the command line, with the same words for what is wrong."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import promptfed as pf
from promptfed.cli import main
from promptfed.progress import Progress
from promptfed.types import Reply

SMALL: dict[str, Any] = {
    "clients": 2,
    "rounds": 2,
    "shots": 1,
    "threads": 1,
    "task_options": {"test_per_class": 2, "val_shots": 1},
    "progress": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pf.Run:
    return pf.train("promptfl", "icons", folder=tmp_path_factory.mktemp("api") / "run", **SMALL)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "picture.png"
    Image.radial_gradient("L").convert("RGB").save(path)
    return path


def test_the_five_lines(run: pf.Run, picture: Path, tmp_path: Path) -> None:
    assert 0 < run.metrics["method"]["base"] <= 1
    assert run.prompt(client=0).shared["ctx"].ndim == 2
    bundle = run.export(client=0, path=str(tmp_path / "bundle"))
    [answer] = pf.load(str(bundle)).predict([str(picture)], classes=["cat", "dog"])
    assert {name for name, _ in answer.ranked} == {"cat", "dog"}
    assert sum(share for _, share in answer.ranked) == pytest.approx(1)


def test_a_run_is_no_bundle_and_a_bundle_no_run(run: pf.Run, tmp_path: Path) -> None:
    with pytest.raises(pf.PromptFedError, match=r"is a run, not a bundle: export .* promptfed.load_run"):
        pf.load(run.path)
    bundle = run.export(client=1, path=tmp_path / "bundle")
    with pytest.raises(pf.PromptFedError, match=r"is a bundle, not a run: .* promptfed.load\)"):
        pf.load_run(bundle)


def test_the_shared_prompt_has_a_folder_of_its_own(run: pf.Run) -> None:
    shared, own = run.export(client=1, shared=True), run.export(client=1)
    assert (shared.name, own.name) == ("client-1-shared", "client-1")


def test_a_run_is_that_of_the_command_line(run: pf.Run, tmp_path: Path) -> None:
    words = (
        "train", "--method", "promptfl", "--data", "icons", "--clients", 2, "--rounds", 2, "--shots", 1, "--threads", 1,
        "--set", "task.test_per_class=2", "--set", "task.val_shots=1", "--run", tmp_path / "line", "--quiet",
    )  # fmt: skip
    with pytest.raises(SystemExit, match=r"^0$"):
        main([str(word) for word in words])
    line = pf.load_run(tmp_path / "line")
    assert line.metrics["prompt_sha256"] == run.metrics["prompt_sha256"]
    assert line.metrics["method"] == run.metrics["method"]
    assert line.config == run.config


def test_paths_may_be_of_any_kind(run: pf.Run) -> None:
    for path in (run.path, str(run.path), os.fspath(run.path)):
        assert pf.load_run(path).path == run.path


def test_what_is_shown_says_what_it_is(run: pf.Run) -> None:
    assert repr(run).startswith(f"<run '{run.path}': promptfl on icons, base ")
    page = run._repr_html_()
    assert "PromptFL" in page
    assert "<th scope='col'>base</th>" in page
    assert page.count("<img alt=") == 2


def test_the_prompt_says_what_it_is_and_what_is_near(run: pf.Run, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = run.prompt(client=0)
    assert repr(prompt) == "<prompt of client 0: PromptFL, shared PromptState(ctx (16, 128))>"
    found = prompt.nearest_words(2)
    assert [row.position for row in found] == list(range(1, 17))
    assert all(len(row.words) == 2 and row.words[0][1] <= row.words[1][1] for row in found)
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["words", str(run.path), "--client", "0", "--count", "2", "--json"])
    assert json.loads(capsys.readouterr().out) == found.recorded()
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["words", str(run.path), "--client", "7"])
    assert "has no client 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": 0}, "option 'rounds' is 0"),
        ({"roundz": 3}, "did you mean 'rounds'"),
        ({"method": "promtfl"}, "Did you mean 'promptfl'"),
        ({"data": "folder:nowhere"}, "nowhere"),
        ({"hold_out_classes": 1.5}, "give a share"),
        ({"method_options": {"lr": "fast"}}, "method option 'lr'"),
        ({"method_options": 3}, "must hold"),
    ],
)
def test_a_bad_option_is_one_line_and_leaves_nothing(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(pf.PromptFedError, match=words) as error:
        pf.train(folder=tmp_path / "run", **{**SMALL, **options})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_bare_options_are_refused_in_the_same_words() -> None:
    with pytest.raises(pf.PromptFedError, match="option 'rounds' is 0"):
        pf.RunConfig(rounds=0)
    with pytest.raises(pf.PromptFedError, match="unknown option 'roundz'"):
        pf.RunConfig(roundz=3)  # type: ignore[call-arg]


class StopsAfter(Progress):
    """Presses Ctrl-C when so many clients are done."""

    def __init__(self, clients: int) -> None:
        self.left = clients

    def client(self, name: str, reply: Reply) -> None:
        self.left -= name == "PromptFL"
        if self.left == 0:
            os.kill(os.getpid(), 2)


def test_ctrl_c_saves_and_resume_ends_with_the_same_bits(run: pf.Run, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"resume\(\) goes on"):
        pf.train("promptfl", folder=tmp_path / "run", **{**SMALL, "progress": StopsAfter(1)})
    stopped = pf.load_run(tmp_path / "run")
    assert not stopped.is_finished
    assert "round 0 of 2" in repr(stopped)
    with pytest.raises(pf.PromptFedError, match="is not finished"):
        stopped.metrics  # noqa: B018
    assert stopped.resume(progress=False) is stopped
    assert stopped.metrics["prompt_sha256"] == run.metrics["prompt_sha256"]


def test_more_rounds_and_what_may_not_change(tmp_path: Path) -> None:
    run = pf.train("kgcoop", folder=tmp_path / "run", **{**SMALL, "rounds": 1})
    before = run.prompt().shared
    with pytest.raises(pf.PromptFedError, match="cannot go on with other values of shots"):
        run.resume(shots=3, progress=False)
    with pytest.raises(pf.PromptFedError, match="has 1 rounds already"):
        run.resume(rounds=1, progress=False)
    run.resume(rounds=2, progress=False)
    assert run.round == run.config.rounds == 2
    assert not torch.equal(run.prompt().shared["ctx"], before["ctx"])


def test_it_trains_beside_the_main_thread(tmp_path: Path, run: pf.Run) -> None:
    made: list[pf.Run] = []
    worker = threading.Thread(target=lambda: made.append(pf.train("promptfl", folder=tmp_path / "run", **SMALL)))
    worker.start()
    worker.join()
    assert made[0].metrics["prompt_sha256"] == run.metrics["prompt_sha256"]


def test_personalize_evaluate_report(tmp_path: Path) -> None:
    run = pf.train("promptfl", folder=tmp_path / "run", **{**SMALL, "rounds": 1})
    curve = run.personalize(epochs=1, alphas=[0, 1])
    assert [row["client"] for row in curve["clients"]] == [0, 1]
    with pytest.raises(pf.PromptFedError, match="personalize option 'epochs'"):
        run.personalize(epochs=-1)
    figures = run.evaluate(progress=False)
    assert figures["icons"]["method"]["base"] == run.metrics["method"]["base"]
    assert run.report().read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(pf.PromptFedError, match="has no client 9"):
        run.prompt(client=9)


def test_compare_is_that_of_the_command_line(tmp_path: Path) -> None:
    options = {name: value for name, value in SMALL.items() if name != "progress"}
    found = pf.compare(["promptfl"], seeds=1, folder=tmp_path / "out", progress=False, **options)
    assert found == {**json.loads((tmp_path / "out" / "comparison.json").read_text()), "folder": str(tmp_path / "out")}
    with pytest.raises(pf.PromptFedError, match="unknown"):
        pf.compare("promptflx", folder=tmp_path / "other", progress=False, **options)
    assert not (tmp_path / "other").exists()
