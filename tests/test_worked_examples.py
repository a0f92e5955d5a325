"""Worked examples: a prompt shows them as the template puts a text, and they are read back from it."""

from __future__ import annotations

import pytest

from promptfed.prompt_template import PromptTemplate
from promptfed.tasks.sources.bundled_texts import FORMS
from promptfed.worked_examples import LONGEST, WorkedExample, examples_in, shown, with_examples

MASKED = PromptTemplate(template="{{ prompt }} {{ text }} It was {{ mask }}.", words={"good": "great", "bad": "poor"})


def test_an_example_is_the_template_with_the_label_word_behind_it():
    example = WorkedExample("Where\n is  it?", "place")
    assert shown(FORMS["questions"], example) == "Question: Where is it?\nKind of answer: place"
    assert shown(MASKED, WorkedExample("Soup!", "good")) == "Soup! It was great."


@pytest.mark.parametrize("form", [*FORMS.values(), MASKED])
@pytest.mark.parametrize("instruction", ["", "Sort this.", "Two lines\n\nwith a gap."])
def test_what_a_prompt_shows_is_read_back(form, instruction):
    names = list(form.descriptions or form.words)
    examples = [WorkedExample(f"text {k} of {name}: It was so.", name) for k in range(2) for name in names]
    prompt = with_examples(form, instruction, examples)
    rest, found = examples_in(form, prompt, names)
    assert (rest, found) == (instruction, examples)
    assert examples_in(form, prompt, names[:1])[1] == [one for one in examples if one.name == names[0]]


def test_a_prompt_without_examples_is_as_it_was():
    for prompt in ("", "Sort this.", "a\n\nb"):
        assert with_examples(MASKED, prompt, []) == prompt
        assert examples_in(MASKED, prompt, ["good", "bad"]) == (prompt, [])


def test_a_long_text_is_cut():
    text = shown(MASKED, WorkedExample("a" * 5000, "good"))
    assert len(text) == LONGEST + len(" It was great.")
