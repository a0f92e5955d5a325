"""The query prompt: its loss by hand, who trains on what, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.examples.base import GradedText, TextItem
from promptfed.methods.query_prompt import answered, documents_of
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split

from ..tiny_language_models import CLASSES, TEXTS, WIDTH, client, setup

DOCUMENTS = ("a good film", "a terrible plot", "very boring actors")
PASSAGES = ((DOCUMENTS[0],), (), (DOCUMENTS[0], DOCUMENTS[2]), (DOCUMENTS[1],))


def engine(number=0):
    items = tuple(
        GradedText(text, class_grades=(1.0, math.nan), passages=passages)
        for text, passages in zip(TEXTS, PASSAGES, strict=True)
    )
    split = Split(items, torch.full((4,), number))
    return ClientData(number, f"engine {number}", (number,), split, split, split)


@pytest.fixture(scope="module")
def method():
    return build_method("query_prompt", {"n_tokens": 2, "temperature": 0.5}, setup("bert"))


def test_requests_that_no_document_answers_are_left_out():
    kept = answered(engine().train)
    assert [item.text for item in kept.items] == [TEXTS[0], TEXTS[2], TEXTS[3]]
    assert documents_of(kept) == [DOCUMENTS[0], DOCUMENTS[2], DOCUMENTS[1]]
    assert kept.labels.tolist() == [0, 0, 2], "the place of the best document"


def test_the_loss_is_infonce_over_the_client_s_own_documents(method):
    shared, kept = method.init_shared(), answered(engine().train)
    loss, scores = method.loss_on(shared, kept, torch.tensor([0, 1]))
    queries = F.normalize(method.model.states([kept.items[0], kept.items[1]], method.kind.insert(shared)), dim=-1)
    documents = F.normalize(method.model.states([TextItem(text) for text in documents_of(kept)]), dim=-1)
    shares = (queries @ documents.T / 0.5).softmax(1)
    expected = -(shares[0, 0].log() + (shares[1, 0] + shares[1, 1]).log()) / 2
    torch.testing.assert_close(loss, expected)
    assert scores.shape == (2, 3)


def test_a_round_lowers_the_loss_and_sends_the_prompt_alone(method):
    longer = build_method("query_prompt", {"n_tokens": 2, "lr": 0.05, "local_epochs": 8}, setup("bert"))
    shared, kept = longer.init_shared(), answered(engine().train)
    update, _ = longer.train(Broadcast(1, shared), engine(), NO_PROMPT)
    assert {name: tuple(tensor.shape) for name, tensor in update.shared.items()} == {"prompt_embeddings": (2, WIDTH)}
    rows = torch.arange(3)
    assert longer.loss_on(update.shared, kept, rows)[0] < longer.loss_on(shared, kept, rows)[0]


def test_engines_are_ranked_by_their_descriptions(method):
    shared, items = method.init_shared(), engine().test.items
    states = method.model.states(items, method.kind.insert(shared), reserve=2)
    torch.testing.assert_close(
        method.logits(shared, NO_PROMPT, CLASSES, engine().test), method.model.cosines(states, CLASSES)
    )


def test_what_it_cannot_do_is_said_at_the_start(method):
    with pytest.raises(ConfigError, match="needs an encoder and its cosine head"):
        build_method("query_prompt", {}, setup("llama"))
    with pytest.raises(ConfigError, match="needs requests with documents that answer them"):
        method.check_feasible([client()])
