from __future__ import annotations

import pytest

from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.local_training import GradientTraining
from promptfed.method import METHODS
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.privacy.example_check import check_example_dp

FITTING = {"promptfl", "fedprox", "kgcoop", "dpfpl", "fedprompt"}


def test_methods_that_protect_examples():
    assert {name for name in METHODS if vars(METHODS[name]).get("example_dp")} == FITTING


@pytest.mark.parametrize("name", sorted(FITTING - {"fedprompt"}))
def test_they_are_taken(setup, name):
    method = build_method(name, {"n_ctx": 3}, setup)
    assert check_example_dp(method) is method


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("fedper", {}, "a part of its prompt stays at the client and is trained without noise"),
        ("promptfolio", {}, "a part of its prompt stays at the client"),
        ("fedclip", {}, "contrasts the images of a batch"),
        ("zero_shot", {}, "it trains nothing"),
        ("tpfl", {}, r"does not say that its loss is a mean of losses, one for each example \(example_dp\)"),
        ("promptfl", {"label_space": "own"}, "use method.label_space=all"),
        ("promptfl", {"class_sample": 2}, "use method.class_sample=null"),
        ("promptfl", {"loss": "sigmoid"}, "use method.loss=cross_entropy"),
    ],
)
def test_others_are_refused_in_one_line(promptable_setup, name, options, why):
    with pytest.raises(ConfigError, match=why) as error:
        check_example_dp(build_method(name, options, promptable_setup))
    assert "\n" not in str(error.value)


def test_a_subclass_says_anew_that_it_protects_examples(setup):
    class Heir(PromptFL):
        pass

    class Other(PromptFL):
        example_dp = True

        def train_many(self, jobs):
            return super().train_many(jobs)

    for kind in (Heir, Other):
        with pytest.raises(ConfigError, match=r"example_dp.* use one of .*promptfl"):
            check_example_dp(kind(PromptFLConfig(), setup))


def test_a_bias_of_the_models_own_is_no_mean_over_images(setup, monkeypatch):
    monkeypatch.setattr(setup.backbone, "logit_bias", -10.0)
    method = build_method("promptfl", {"loss": "sigmoid"}, setup)
    assert isinstance(check_example_dp(method), GradientTraining)
