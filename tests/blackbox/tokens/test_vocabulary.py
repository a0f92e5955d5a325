from __future__ import annotations

import pytest
import torch

from promptfed.blackbox.tokens.vocabulary import BUNDLED, Vocabulary, VocabularyConfig, random_tokens, read_vocabulary
from promptfed.errors import ConfigError
from promptfed.prompt_template import PromptTemplate

FORM = PromptTemplate(words={"positive": "Great"})


def make(classes=("negative", "positive"), **options):
    return Vocabulary.agreed(VocabularyConfig(**options), classes, FORM)


def test_the_blank_the_classes_words_then_the_list():
    assert make(candidates=6).tokens == ("", "negative", "great", "text", "sentence", "review")
    assert make(candidates=6).text((3, 0, 2, 0)) == "text great"


def test_the_bundled_list_is_one_of_short_words():
    lines = BUNDLED.read_text().splitlines()
    assert 200 <= len(lines) <= 400
    assert len(set(lines)) == len(lines)
    assert all(line == line.strip().lower() and len(line.split()) <= 2 for line in lines)
    assert len(make(candidates=300)) == 300


def test_the_same_options_give_the_same_tag_and_others_another():
    assert torch.equal(make(candidates=50).tag, make(candidates=50).tag)
    assert not torch.equal(make(candidates=50).tag, make(candidates=51).tag)
    assert not torch.equal(make(candidates=50).tag, make(("positive", "negative"), candidates=50).tag)


def read(**options):
    return make(**read_vocabulary(VocabularyConfig(**options).model_dump()))


def test_a_file_of_one_s_own_is_read_once_and_never_named_again(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("uno\n\n due  tre \nuno\nquattro\nsei\nsette\n")
    options = read_vocabulary({"candidates": 5, "vocabulary": f"file:{path}"})
    assert options == {"candidates": 5, "vocabulary": ["uno", "due tre", "quattro", "sei", "sette"]}
    path.unlink()
    assert make(**options).tokens == ("", "negative", "great", "uno", "due tre")
    with pytest.raises(ConfigError, match="candidates=9, but there are 8"):
        make(**{**options, "candidates": 9})


@pytest.mark.parametrize("named", ["file:{}", "{}", "file:~/x", "file:/etc/passwd"])
def test_a_file_that_a_run_or_a_bundle_names_is_never_read(tmp_path, named):
    path = tmp_path / "secret.txt"
    path.write_text("a\nb\nc\n")
    with pytest.raises(ConfigError, match="is no list of tokens"):
        make(candidates=5, vocabulary=named.format(path))


@pytest.mark.parametrize("vocabulary", ["file:/nowhere/words.txt", "file:", "mine"])
def test_a_list_that_there_is_not(vocabulary):
    with pytest.raises(ConfigError, match="vocabulary"):
        read(candidates=5, vocabulary=vocabulary)


def test_a_text_is_no_token(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("one\n" + "word " * 30)
    with pytest.raises(ConfigError, match="no token"):
        read(candidates=3, vocabulary=f"file:{path}")
    with pytest.raises(ConfigError, match="no token"):
        make(candidates=3, vocabulary=("one", "\x1b[31m"))


def test_random_tokens_hold_no_blank():
    drawn = random_tokens(make(candidates=3), 200, torch.Generator().manual_seed(0))
    assert set(drawn) == {1, 2}
