"""`--set method.init=` takes words; a path or a run in their place is refused, not embedded as words."""

from __future__ import annotations

import pytest

from promptfed.config import RunConfig
from promptfed.errors import ConfigError
from promptfed.prompts.initial_words import check_initial_words
from promptfed.resolve import resolve


@pytest.mark.parametrize(
    "words",
    ["", "a photo of a", "photo", "a cat and/or a dog", "X-ray", "e.g. a lung scan", "no. 5", "脑部 CT", "x" * 5000],
)
def test_words_are_taken(words):
    check_initial_words(words)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("runs/mine", "a path"),
        ("./prompt", "a path"),
        ("~/ctx.pt", "a path"),
        ("C:\\prompts\\one", "a path"),
        ("ctx.safetensors", "a path"),
        ("prompt.PTH", "a path"),
        ("my run", "the name of a run or a bundle"),
        ("20261128-mine", "the name of a run or a bundle"),
        ("bundle", "the name of a run or a bundle"),
        ("notes", "the name of a file"),
    ],
)
def test_paths_and_runs_are_refused(tmp_path, monkeypatch, words, kind):
    monkeypatch.chdir(tmp_path)
    for folder, mark in (
        ("my run", "config.yaml"),
        ("runs/20261128-mine", "config.yaml"),
        ("bundle", "promptfed_config.json"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / mark).write_text("")
    (tmp_path / "notes").write_text("")
    with pytest.raises(ConfigError, match=f"option 'init' is .*, {kind}: it takes words"):
        check_initial_words(words)


@pytest.mark.parametrize("method", ["promptfl", "maple", "fedotp", "local_only"])
def test_every_method_with_words_to_start_from_is_checked_before_anything_is_loaded(method):
    with pytest.raises(ConfigError, match="it takes words"):
        resolve(RunConfig(method=method, method_options={"init": "runs/NAME"}))


@pytest.mark.parametrize("words", ["", " ", "\t"])
def test_no_words_are_not_the_folder_one_stands_in(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    check_initial_words(words)


def test_a_default_is_not_taken_for_a_run_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "text").mkdir(parents=True)
    (tmp_path / "runs" / "text" / "config.yaml").write_text("")
    config = RunConfig(task="text-classification", method="fedprompt")
    assert resolve(config).method_options["init"] == "text"
