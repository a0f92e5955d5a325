from __future__ import annotations

import pytest
import torch

from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.prompts.templates import template_features


def test_the_sentence_is_the_tasks_first_unless_another_is_given(setup):
    names = ["red", "sky_blue"]
    plain = setup.features.texts(["red", "sky blue"])
    assert torch.equal(template_features(setup, names), plain), "the toy task's first template is '{}'"
    spoken = setup.features.texts(["one red one", "one sky blue one"])
    assert torch.equal(template_features(setup, names, "one {} one"), spoken)


def test_each_sentence_is_encoded_once(setup):
    template_features(setup, ["red", "blue"])
    before = setup.backbone.calls.texts
    template_features(setup, ["blue", "red"])
    assert setup.backbone.calls.texts == before


def test_a_template_without_a_place_for_the_name_is_refused(setup):
    with pytest.raises(ConfigError, match=r"must have \{\} where the class name goes"):
        build_method("fedclip", {"template": "a photo"}, setup)
