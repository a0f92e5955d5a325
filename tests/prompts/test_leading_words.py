from __future__ import annotations

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.prompts.leading_words import leading_words, remaining_words


def test_the_first_tokens_start_and_the_other_words_stay(small_clip):
    words = leading_words(small_clip, "a photo of a", 2)
    assert torch.equal(words, small_clip.embed_words("a photo"))
    assert remaining_words(small_clip, "a photo of a", 2) == "of a"
    assert remaining_words(small_clip, "a photo of a", 4) == ""
    assert leading_words(small_clip, "", 2) is None


def test_a_sentence_with_too_few_tokens_is_refused(small_clip):
    with pytest.raises(ConfigError, match=r"'init' is 'a photo', of 2 tokens, but n_ctx is 3: give at least that many"):
        leading_words(small_clip, "a photo", 3)


def test_a_word_that_is_cut_in_two_is_replaced(backbone):
    assert remaining_words(backbone, "ab cd", 1) == "cd", "the toy's tokens are letters"
