"""The texts that come with promptfed are whole and balanced."""

from __future__ import annotations

from collections import Counter

import pytest

from promptfed.errors import ConfigError
from promptfed.tasks.sources.bundled_texts import FORMS, NAMES, source
from promptfed.tasks.sources.tables import Columns


@pytest.mark.parametrize("name", NAMES)
def test_every_class_has_as_many_texts_in_every_domain_and_no_text_is_there_twice(name):
    found = source(name, Columns())
    assert len(found.samples) >= 200
    counts = Counter((s.label, s.domain) for s in found.samples)
    assert len(counts) == len(found.classes) * len(found.domains)
    assert len(set(counts.values())) == 1
    assert len({s.item.content_id() for s in found.samples}) == len(found.samples)


@pytest.mark.parametrize("name", NAMES)
def test_forms_speak_of_classes_that_there_are_and_tell_them_apart(name):
    classes, form = source(name, Columns()).classes, FORMS[name]
    assert set(form.words) | set(form.descriptions) <= set(classes)
    assert len({form.word(c) for c in classes}) == len({form.description(c) for c in classes}) == len(classes)
    assert form.prompts[0] == ""


def test_an_unknown_name():
    with pytest.raises(ConfigError, match=r"unknown bundled texts 'review'. Did you mean 'reviews'"):
        source("review", Columns())
