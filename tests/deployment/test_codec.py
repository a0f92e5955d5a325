from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from promptfed.deployment import codec, messages
from promptfed.errors import DeploymentError
from promptfed.printable import is_printable
from promptfed.prompt_state import PromptState

NAMES = st.text(st.characters(codec="utf-8"), max_size=8).filter(is_printable)
DTYPES = st.sampled_from([np.dtype(name) for name in codec.DTYPES])
TENSORS = DTYPES.flatmap(
    lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
STATES = st.dictionaries(NAMES, TENSORS, max_size=4).map(
    lambda found: PromptState({name: torch.from_numpy(np.array(value)) for name, value in found.items()})
)
DONE = messages.TrainAnswer(
    client=3,
    round=2,
    samples=7,
    loss=1 / 3,
    accuracy=0.1 + 0.2,
    seconds=1.5,
    usage=messages.UsageWords(usd=0.1),
    kept=2,
)


@settings(deadline=None, max_examples=60)
@given(shared=STATES, other=STATES)
def test_every_prompt_comes_back_as_it_was_sent(shared, other):
    content = codec.pack(DONE, 2.5, shared=shared, other=other)
    wire = recorddict_to_proto(content).SerializeToString()
    arrived = recorddict_from_proto(type(recorddict_to_proto(content)).FromString(wire))
    parcel = codec.unpack(arrived, messages.TrainAnswer)
    for part, state in (("shared", shared), ("other", other)):
        back = parcel.part(part)
        assert back.to_bytes() == state.to_bytes(), "the same bits, NaN and -0 included"
    assert parcel.started == 2.5


def test_words_come_back_with_every_bit_of_their_numbers():
    words = codec.unpack(codec.pack(DONE), messages.TrainAnswer).words
    assert words.accuracy == 0.1 + 0.2
    assert words == DONE


def test_bytes_are_those_of_the_whole_message():
    small, large = PromptState({"ctx": torch.zeros(4, 8)}), PromptState({"ctx": torch.zeros(400, 8)})
    sizes = [codec.wire_bytes(codec.pack(DONE, shared=state)) for state in (small, large)]
    assert sizes[1] - sizes[0] == pytest.approx(396 * 8 * 4, abs=16), "what is added is the tensor"
    assert 128 + 300 < sizes[0] < 4000, "the words and Flower's own headers are counted too"


def edited(change):
    content = codec.pack(DONE, shared=PromptState({"ctx": torch.zeros(2, 2)}))
    about = json.loads(content["about"]["json"])
    change(about, content)
    content["about"] = ConfigRecord({"json": json.dumps(about)})
    return content


GARBAGE = {
    "nothing": lambda: RecordDict({}),
    "not JSON": lambda: RecordDict({"arrays": ArrayRecord({}), "about": ConfigRecord({"json": "{"})}),
    "deep JSON": lambda: RecordDict({"arrays": ArrayRecord({}), "about": ConfigRecord({"json": "[" * 100_000})}),
    "no words": lambda: edited(lambda about, content: about.pop("words")),
    "another kind": lambda: codec.pack(messages.PrepareAnswer(images=1, seconds=1.0)),
    "a word too many": lambda: edited(lambda about, content: about["words"].update(surprise=1)),
    "a negative client": lambda: edited(lambda about, content: about["words"].update(client=-1)),
    "text for a number": lambda: edited(lambda about, content: about["words"].update(samples="many")),
    "an array that is not named": lambda: edited(lambda about, content: about["parts"].update(shared=[])),
    "a name without its array": lambda: edited(lambda about, content: about["parts"]["shared"].append("b")),
    "pickled": lambda: edited(
        lambda about, content: content["arrays"].update(
            {"shared/ctx": Array("float32", (2, 2), "numpy.ndarray", b"\x80\x04K\x01.")}
        )
    ),
    "objects": lambda: edited(
        lambda about, content: content["arrays"].update({"shared/ctx": Array(np.zeros((2, 2), dtype=np.float64))})
    ),
    "a shape that lies": lambda: edited(
        lambda about, content: content["arrays"].update(
            {"shared/ctx": Array("float32", (9, 9), "numpy.ndarray", Array(np.zeros(4, np.float32)).data)}
        )
    ),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_refused_in_one_line(what):
    with pytest.raises(DeploymentError) as refused:
        codec.unpack(GARBAGE[what](), messages.TrainAnswer)
    assert "\n" not in str(refused.value)


def test_a_problem_is_raised_with_its_own_words():
    with pytest.raises(DeploymentError, match=r"^no images here$"):
        codec.unpack(codec.pack(messages.ErrorReply(why="no images here")), messages.TrainAnswer)


@pytest.mark.parametrize("run", ["../../etc", "", "0" * 31, "G" * 32])
def test_the_name_of_a_run_is_no_path(run):
    with pytest.raises(ValueError, match="run"):
        messages.SiteAgreement(
            run=run, simulated=True, config={}, base_classes=(), templates=(), sites=(), fingerprint=""
        )
