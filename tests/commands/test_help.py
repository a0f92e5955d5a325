from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["train"],
        ["compare"],
        ["eval"],
        ["predict"],
        ["export"],
        ["personalize"],
        ["onboard"],
        ["list"],
        ["report"],
        ["words"],
        ["tasks", "show"],
        ["privacy", "plan"],
    ],
)
def test_help_teaches_by_example(promptfed, words):
    said = promptfed(*words, "--help")
    assert said.code == 0
    assert "Example" in said.out
    assert f"promptfed {' '.join(words)}".strip() in said.out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["export"], "RUN A run's folder. [required]"),
        (["predict"], "[EXAMPLE...] Image files, folders, patterns"),
        (["predict"], "How many classes to name. [default: 3]"),
        (["flower", "init"], "DIR New folder for the app."),
        (["list"], "[KIND] One of: methods"),
        (["import", "fedtpg"], "[required]"),
    ],
)
def test_arguments_say_what_they_are(promptfed, monkeypatch, words, text):
    """typer 0.20 under a newer click loses these texts and escapes the brackets."""
    monkeypatch.setenv("COLUMNS", "100")
    page = promptfed(*words, "--help").out
    assert " ".join(page.split()).count(text) == 1
    assert "\\[" not in page
    assert "Positional" not in page


@pytest.mark.parametrize("typo", ["tran", "exprt", "predct"])
def test_the_nearest_command_is_named_once(promptfed, typo):
    said = promptfed(typo)
    assert said.code == 2
    assert said.err.count("Did you mean") == 1


def test_no_arguments_show_the_help(promptfed):
    said = promptfed()
    assert said.code == 0
    assert "Commands" in said.out


def test_version(promptfed):
    import promptfed as package

    assert promptfed("--version").out == f"promptfed {package.__version__}\n"


def everything(command, path="promptfed"):
    """Every command of the command line, with the words that lead to it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from everything(inner, f"{path} {name}")


def test_every_flag_and_argument_is_explained():
    from promptfed.cli import app
    from promptfed.commands.help_page import build_command
    from promptfed.commands.parameters import parameters_of

    rows = [(path, each) for path, command in everything(build_command(app)) for each in parameters_of(command)]
    assert len(rows) > 150
    assert [(path, each.name) for path, each in rows if not each.text] == []


@pytest.mark.parametrize("words", [["train"], ["compare"], ["flower", "init"]])
def test_help_all_shows_what_help_leaves_out(promptfed, words):
    short, whole = promptfed(*words, "--help").out, promptfed(*words, "--help-all").out
    assert "--quorum" not in short
    assert "--help-all" in short
    for title in ("Task and data", "Federation", "Where the work runs", "The run"):
        assert f"\n{title}:\n" in whole
    assert {"--quorum", "--participation", "--precision", "--help"} <= set(whole.replace(",", " ").split())
    names = " ".join(whole.split())
    assert "trimmed_mean" in names
    assert ("promptfed list methods shows all" in names) == (words != ["compare"])


def test_help_all_of_a_short_page_is_that_page(promptfed):
    assert promptfed("report", "--help-all").out == promptfed("report", "-h").out


@pytest.mark.parametrize("words", [[], ["train"], ["train", "--help-all"], ["predict"], ["site", "check"]])
def test_pages_fit_the_terminal_and_have_no_colour(promptfed, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    page = promptfed(*words, "--help").out
    assert max(map(len, page.splitlines())) <= 80
    assert "\x1b" not in page
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert promptfed(*words, "--help").out == page


def test_an_example_that_is_broken_can_still_be_pasted(promptfed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    page = promptfed("train", "--help").out.replace(" \\\n", " ")
    lines = [" ".join(line.split()) for line in page.splitlines()]
    assert "promptfed train --task clip-domains --data folder:pacs --set task.held_out=sketch --backbone lit" in lines


def test_every_choice_of_an_option_stands_in_its_help():
    import typer

    from promptfed.cli import app

    def commands(command, path):
        for name, nested in getattr(command, "commands", {}).items():
            yield from commands(nested, f"{path} {name}")
        if not getattr(command, "commands", {}):
            yield path, command

    silent = [
        (path, parameter.name, choice)
        for path, command in commands(typer.main.get_command(app), "promptfed")
        for parameter in command.params
        for choice in map(str, getattr(parameter.type, "choices", ()))
        if choice not in f"{getattr(parameter, 'help', '')} {parameter.metavar}"
    ]
    assert not silent
