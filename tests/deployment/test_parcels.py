"""Messages in one piece: what arrives is what was sent, and what is no message is refused in one line."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from promptfed.deployment import codec, messages, parcels
from promptfed.errors import DeploymentError
from promptfed.prompt_state import PromptState

DONE = messages.PrepareAnswer(images=3, seconds=1.5)


def test_what_arrives_is_what_was_sent_in_two_objects_in_place_of_five():
    state = PromptState({"ctx": torch.randn(4, 8)})
    content = codec.pack(DONE, shared=state)
    sent = parcels.wrapped(content)
    there = codec.unpack(parcels.unwrapped(sent), messages.PrepareAnswer)
    assert (there.words, there.parts) == (DONE, {"shared": state})
    assert (len(get_all_nested_objects(sent)), len(get_all_nested_objects(content))) == (2, 5)
    assert codec.wire_bytes(sent) < codec.wire_bytes(content)


def test_a_large_message_goes_as_flower_sends_it():
    content = codec.pack(DONE, shared=PromptState({"ctx": torch.zeros(300_000)}))
    assert parcels.wrapped(content) is content
    assert parcels.unwrapped(content) is content


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({"parcel": ConfigRecord({"bytes": b"\xff\xff\xff"})}),
        RecordDict({"parcel": ConfigRecord({"bytes": "text"})}),
        RecordDict({"parcel": ConfigRecord({})}),
        RecordDict({"parcel": ConfigRecord({"bytes": b""}), "more": ConfigRecord({})}),
        RecordDict({"parcel": ConfigRecord({"bytes": bytes(parcels.LARGEST + 1)})}),
        RecordDict({"parcel": ArrayRecord({})}),
        parcels.wrapped(parcels.wrapped(codec.pack(DONE))),
    ],
)
def test_what_is_no_parcel_is_refused_in_one_line(content):
    with pytest.raises(DeploymentError, match="a message holds the records") as refused:
        codec.unpack(parcels.unwrapped(content), messages.PrepareAnswer)
    assert "\n" not in str(refused.value)
