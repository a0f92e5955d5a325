"""What can be read in a prompt, for every white-box method on the toy backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from promptfed.backbones.base import TokenEmbeddings
from promptfed.errors import RunError
from promptfed.learned_prompt import LearnedPrompt
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, ClientPrompt

LETTERS = {"token_embeddings": lambda self: TokenEmbeddings(tuple(map(chr, range(33, 127))), self.letters[33:127])}


def prompt_of(name: str, setup: Any, personal: PromptState = NO_PROMPT, **options: Any) -> LearnedPrompt:
    setup.backbone.__class__ = type("Spelling", (type(setup.backbone),), LETTERS)
    method = METHODS[name](METHODS[name].Config(**options), setup)
    return LearnedPrompt(1, ClientPrompt(method.init_shared(), personal), method)


@pytest.mark.parametrize("name", ["promptfl", "fedprox", "kgcoop", "fedamp", "local_only", "fedpgp", "dpfpl", "fedper"])
def test_a_context_that_starts_from_words_is_near_them(name: str, setup: Any) -> None:
    options = {"n_private": 1} if name == "fedper" else {}
    found = prompt_of(name, setup, init="owl", **options).nearest_words(1)
    assert [row.words[0] for row in found] == [(letter, pytest.approx(0, abs=1e-6)) for letter in "owl"]


@pytest.mark.parametrize("name", ["promptfolio", "fedotp"])
def test_a_personal_context_has_rows_of_its_own(name: str, setup: Any) -> None:
    personal = PromptState({"local": setup.backbone.embed_words("ant"), "theta": torch.tensor([0.2])})
    found = prompt_of(name, setup, personal, init="owl").nearest_words(1)
    assert [(row.context, row.words[0][0]) for row in found] == [
        *(("ctx", letter) for letter in "owl"),
        *(("local", letter) for letter in "ant"),
    ]
    assert repr(found).splitlines()[1].split() == ["context", "#", "words"]


def test_the_client_reads_its_own_context(setup: Any) -> None:
    personal = PromptState({"local": setup.backbone.embed_words("ant")})
    assert (
        "".join(row.words[0][0] for row in prompt_of("finetune", setup, personal, init="owl").nearest_words(1)) == "ant"
    )


def test_contexts_of_single_classes_are_named(setup: Any) -> None:
    found = prompt_of("promptfl", setup, init="owl", class_specific=True).nearest_words(1)
    assert [row.class_name for row in found][::3] == ["red", "green", "blue", "ochre"]


@pytest.mark.parametrize(("name", "trains"), [("zero_shot", "nothing"), ("fedclip", "image feature adapter")])
def test_a_method_without_a_text_context_says_so(name: str, trains: str, setup: Any) -> None:
    with pytest.raises(RunError, match=f"learns no text context but {trains}") as error:
        prompt_of(name, setup).nearest_words()
    assert "\n" not in str(error.value)
