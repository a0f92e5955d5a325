"""What stands before a question: by hand on three small corpora."""

from __future__ import annotations

import pytest

from promptfed.retrieval.collection import Collection, Corpus, Request
from promptfed.retrieval.contexts import Contexts

GARDEN = ("roses need pruning in spring", "moss grows where grass has no light", "slugs eat lettuce at night")
GARAGE = ("a flat tyre is mended with a patch", "oil is changed in spring", "the chain needs oil")
KITCHEN = ("bread rises in the warm", "soup is salted at the end", "rice needs twice the water")
ASKED = Request("when do roses need pruning", (2.0, 0.0, 0.0), 0, {0: {0: 2.0, 1: 1.0}}, "in spring")


@pytest.fixture
def contexts() -> Contexts:
    corpora = (
        Corpus("garden", "for green thumbs", GARDEN),
        Corpus("garage", "", GARAGE),
        Corpus("kitchen", "", KITCHEN),
    )
    return Contexts(Collection("toy", corpora, (ASKED,)), documents=2, engines=2, words=4)


def test_an_owner_finds_its_own_documents_alone(contexts: Contexts) -> None:
    assert contexts.find(0, ASKED) == ["roses need pruning in"], "one document has a word of it, and is cut at four"
    assert contexts.find(2, ASKED) == ["rice needs twice the"] or contexts.find(2, ASKED) == []


def test_a_broker_asks_the_engines_whose_words_they_are(contexts: Contexts) -> None:
    assert contexts.search(ASKED)[0] == "roses need pruning in"
    assert len(contexts.search(ASKED)) <= 2
    assert contexts.describe(ASKED) == ["for green thumbs"]


def test_gold_is_what_was_judged_best_first(contexts: Contexts) -> None:
    assert contexts.gold(ASKED) == ["roses need pruning in", "moss grows where grass"]
