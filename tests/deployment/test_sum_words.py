"""Messages of a secure sum travel as they were, and what is none is refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from promptfed.deployment import codec
from promptfed.deployment.messages import SiteAgreement
from promptfed.deployment.sum_words import Sum, SumAnswer, SumMessage, answer_of, array_of, name_of_run
from promptfed.errors import DeploymentError
from promptfed.prompt_state import PromptState

RUN = "0" * 32
MESSAGES = [
    {"kind": "keys", "terms": b"\x01" * 16, "keys": bytes(range(128))},
    {"kind": "all keys", "terms": b"\x01" * 16, "keys": {"0": b"a" * 128, "11": b"b" * 128}},
    {"kind": "shares", "terms": b"\x01" * 16, "seed": b"s" * 32, "to": {"1": b"\x00\xff"}},
    {"kind": "survivors", "terms": b"\x01" * 16, "survivors": (0, 2, 3), "lost": ()},
    {"kind": "consents", "terms": b"\x01" * 16, "signatures": {"0": b"s" * 64}},
    {"kind": "unmask", "terms": b"\x01" * 16, "seeds": {"0": b"x" * 33}, "keys": {}},
    {"kind": "masked", "terms": b"\x01" * 16, "words": np.array([0, 1, 2**31, 2**32 - 1], "<u4").tobytes()},
]
AGREEMENT = SiteAgreement(
    run=RUN, simulated=False, config={"lr": 0.1}, base_classes=("a", "b"), templates=("{}",), sites=(), fingerprint="f"
)


def arrived(message, client=3, round=2, **parts):
    words = SumAnswer.create(client=client, round=round, message=SumMessage.of(message))
    return codec.unpack(codec.pack(words, **(parts or array_of(message))), SumAnswer)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["kind"])
def test_a_message_arrives_as_it_was(message):
    assert answer_of(arrived(message), 3, 2) == message


def test_what_a_server_sends_arrives_too():
    question = Sum.create(
        run=RUN, stage="promptfl", client=1, round=2, leg="shares", cohort=(0, 1, 2), message=SumMessage.of(MESSAGES[1])
    )
    assert codec.unpack(codec.pack(question), Sum).words.message.opened() == MESSAGES[1]


@pytest.mark.parametrize(
    "content",
    [
        {"terms": "0g"},
        {"terms": "012"},
        {"terms": "00" * 10_000},
        {"terms": None},
        {"to": {"1": 5}},
        {"lost": [-1]},
        {"lost": [0.5]},
        {"a": "", "b": "", "c": "", "d": ""},
        {"x" * 65: ""},
    ],
)
def test_what_is_no_content_is_refused(content):
    with pytest.raises(DeploymentError):
        SumMessage.read(f'{{"kind": "keys", "content": {json.dumps(content)}}}')


@pytest.mark.parametrize(
    "parts",
    [
        {"shared": PromptState({"words": torch.zeros(4, dtype=torch.int32)})},
        {"masked": PromptState({"words": torch.zeros(4)})},
        {"masked": PromptState({"words": torch.zeros((2, 2), dtype=torch.int32)})},
        {"masked": PromptState({"other": torch.zeros(4, dtype=torch.int32)})},
    ],
)
def test_another_array_is_refused(parts):
    with pytest.raises(DeploymentError, match="not one of masked words"):
        answer_of(arrived(MESSAGES[-1], **parts), 3, 2)


def test_another_client_s_or_round_s_answer_is_refused():
    for client, round in ((2, 2), (3, 1)):
        with pytest.raises(DeploymentError, match="it is client 3's of round 2"):
            answer_of(arrived(MESSAGES[0]), client, round)


def test_all_that_was_agreed_on_is_in_the_name_of_the_run():
    name = name_of_run(AGREEMENT, "promptfl")
    assert name == name_of_run(SiteAgreement.read(AGREEMENT.model_dump_json()), "promptfl")
    assert name.startswith(RUN)
    others = [{"config": {"lr": 0.2}}, {"identities": ("0" * 64,)}, {"merged": True}]
    names = {name_of_run(AGREEMENT.model_copy(update=change), "promptfl") for change in others}
    assert len({name, name_of_run(AGREEMENT, "fedper"), *names}) == 5
