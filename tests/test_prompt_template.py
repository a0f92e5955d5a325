"""How an example is put to a black box."""

from __future__ import annotations

import pickle

import pytest
from pydantic import ValidationError

from promptfed.prompt_template import PromptTemplate


def test_prompt_and_text_stand_where_the_template_says():
    form = PromptTemplate(template="{{ prompt }} Text: {{ text }}\nIt was {{ mask }}.")
    assert form.render("Read.", "good", "[MASK]") == "Read. Text: good\nIt was [MASK]."
    assert form.render("", "good", "[MASK]") == "Text: good\nIt was [MASK]."


def test_around_is_what_stands_before_and_after_the_prompt():
    form = PromptTemplate(template="Hi {{ prompt }} {{ text }} End")
    assert form.around("a\x00b") == ("Hi", "ab End")
    before, after = PromptTemplate(template="{{ text }}\n{{ prompt }}").around("x")
    assert (before, after) == ("x\n", "")


def test_a_preamble_stands_before_every_request_as_it_is():
    form = PromptTemplate(template="{{ prompt }} {{ text }}", preamble="1 +  1 = {{ 2 }}\n\n")
    assert form.render("Add:", "2 + 2") == "1 +  1 = {{ 2 }}\n\nAdd: 2 + 2"
    assert form.example("2 + 2") == "2 + 2"
    assert form.around("x") == ("1 +  1 = {{ 2 }}\n\n", "x")


@pytest.mark.parametrize("evil", ["{{ x }}", "{{ 7 * 7 }}", "{% for i in range(9) %}z{% endfor %}", "{# gone #}", "{{"])
def test_texts_and_prompts_are_never_read_as_templates(evil):
    form = PromptTemplate(template="{{ prompt }}|{{ text }}")
    assert form.render(evil, evil) == f"{evil}|{evil}"
    assert form.around(evil) == ("", f"|{evil}")


def test_words_and_descriptions_default_to_names():
    form = PromptTemplate(words={"pos": "great"}, descriptions={"neg": "They are angry."})
    assert [form.word(c) for c in ("pos", "neg", "so_so")] == ["great", "neg", "so so"]
    assert [form.description(c) for c in ("pos", "neg", "so_so")] == ["great", "They are angry.", "so so"]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ prompt }", "is not jinja2"),
        ("{{ prompt }} {{ text | nothing }}", "is not jinja2"),
        ("{{ prompt }} {{ text }} {{ 1 / 0 }}", "is not jinja2"),
        ("{{ prompt.__class__.__mro__ }} {{ text }}", "is not jinja2"),
        ("{{ text }}", "must hold {{ prompt }} once"),
        ("{{ prompt }}", "must hold {{ text }} once"),
        ("{{ prompt }} {{ text }} {{ text }}", "must hold {{ text }} once"),
    ],
)
def test_a_bad_template(template, said):
    with pytest.raises(ValidationError) as error:
        PromptTemplate(template=template)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("template", "name", "near"),
    [
        ("{{ prompt }} {{ text }} {{ labels }}", "labels", ""),
        ("{{ prompt }} {{ text }} {{ promt }}", "promt", "did you mean 'prompt'"),
        ("{% if txt %}x{% endif %}{{ prompt }} {{ text }}", "txt", "did you mean 'text'"),
        ("{{ prompt }} {{ text }} {{ item.name }}", "item", ""),
    ],
)
def test_a_template_names_its_fields_only(template, name, near):
    with pytest.raises(ValidationError, match=f"names '{name}', which is none of its fields") as error:
        PromptTemplate(template=template)
    assert near in str(error.value)


@pytest.mark.parametrize("prompt", ["a photo of a {}.", "Read {{ text }}", "Sort: {{text}}"])
def test_a_prompt_that_looks_like_a_template_is_refused(prompt):
    with pytest.raises(ValidationError, match="sent as it is"):
        PromptTemplate(prompts=("", prompt))


def test_another_process_gets_the_same_template():
    form = PromptTemplate(template="{{ prompt }} {{ text }}")
    said = form.render("read", "this")
    assert pickle.loads(pickle.dumps(form)).render("read", "this") == said


def test_a_copy_with_another_template_renders_that_one():
    form = PromptTemplate(template="{{ prompt }} {{ text }} it was")
    assert form.render("", "good") == "good it was"
    assert form.model_copy(update={"template": "{{ prompt }} {{ text }}!"}).render("", "good") == "good!"
