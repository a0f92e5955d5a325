"""A stranger's template can name, cut and choose, and nothing that costs time, memory or a secret."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from promptfed.errors import ConfigError
from promptfed.prompt_template import PromptTemplate
from promptfed.template_syntax import LONGEST_TEMPLATE, MOST_ADDED

COSTLY = [
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 'a' * 3000000000 }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ 9 ** 9 ** 9 ** 9 }}",
    "{{ lipsum(n=1000000) }}",
    "{{ range(99999) | list * 99999 }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ text.__class__.__mro__ }}",
    "{% include '/etc/passwd' %}",
    "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
    "{{ 'a' | replace('a', text) }}",
]


@pytest.mark.parametrize("part", COSTLY, ids=[part[:24] for part in COSTLY])
def test_what_costs_is_refused_without_being_rendered(part: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValidationError, match="template"):
        PromptTemplate(template=part + "{{ prompt }} {{ text }}")
    assert time.monotonic() - began < 5


def test_nothing_is_rendered_while_a_form_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> str:
        raise AssertionError("a template was compiled")

    monkeypatch.setattr("promptfed.template_syntax.ENVIRONMENT.from_string", never)
    assert PromptTemplate(template="{{ prompt }}: {{ text }}").template == "{{ prompt }}: {{ text }}"


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ prompt }} {{ text[:4] }}", "P Some"),
        ("{{ prompt }} {{ text | replace('\\n', ' ') | trim }}", "P Some text"),
        (
            "{% if mask %}{{ prompt }} {{ text }} {{ mask }}{% else %}{{ text }} {{ prompt }}{% endif %}",
            "P Some\ntext M",
        ),
        ("{% if prompt %}{{ prompt }}\n{% endif %}{{ text | lower }}", "P\nsome\ntext"),
        ("{{ prompt }}{{ ': ' ~ text if mask else text }}", "P: Some\ntext"),
    ],
)
def test_names_slices_conditions_and_filters_are_allowed(template: str, shown: str) -> None:
    assert PromptTemplate(template=template).render("P", "Some\ntext", "M") == shown


def test_what_comes_out_is_bounded() -> None:
    with pytest.raises(ValidationError, match="characters; at most"):
        PromptTemplate(template="{{ prompt }} {{ text }}" + "x" * LONGEST_TEMPLATE)
    grows = PromptTemplate(template="{{ prompt }} {{ text | replace('a', '" + "b" * 500 + "') }}")
    assert len(grows.render("", "a" * 100)) == 50_000
    with pytest.raises(ConfigError, match="characters"):
        grows.render("", "a" * 1000)
    assert len(PromptTemplate().render("", "a" * (2 * MOST_ADDED))) > 2 * MOST_ADDED, (
        "a long text is the user's own affair"
    )
    with pytest.raises(ConfigError, match="does not render"):
        PromptTemplate(template="{{ prompt }} {{ text | truncate('x') }}").render("", "a" * 500)
