"""Quantisation, on numbers that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptfed.compression.quantize import Quantize, QuantizeConfig
from promptfed.errors import ProcessorError
from promptfed.processors.base import Streams
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Update

STREAMS = Streams(0, "quantize", 1, 0)
SENT = Broadcast(1, PromptState({"ctx": torch.tensor([10.0, 20.0, 30.0])}))


def update_of(**tensors) -> Update:
    return Update(0, PromptState({name: torch.as_tensor(values) for name, values in tensors.items()}), 3, 0.5, 0.25)


def quantizer(kind: str, feedback: bool = False) -> Quantize:
    return Quantize(QuantizeConfig(format=kind, error_feedback=feedback))


def test_int8_by_hand():
    """Changes 12.7, -0.06 and 4.96: the scale is 0.1, the codes 127, -1 and 50, and 0.04 is lost twice."""
    made = quantizer("int8", feedback=True).outgoing(update_of(ctx=[22.7, 19.94, 34.96]), SENT, NO_PROMPT, STREAMS)
    wire = made.update.shared
    assert wire["int8:ctx"].tolist() == [127, -1, 50]
    assert wire["int8:ctx"].dtype == torch.int8
    assert wire["scales"].tolist() == pytest.approx([0.1], rel=1e-6)
    assert made.state["ctx"].tolist() == pytest.approx([0, 0.04, -0.04], abs=2e-6)
    back = quantizer("int8").incoming(made.update, SENT, STREAMS)
    assert back.shared["ctx"].tolist() == pytest.approx([22.7, 19.9, 35.0], rel=1e-6)
    assert made.figures["lost"] == pytest.approx(0.04 * 2**0.5 / (12.7**2 + 0.06**2 + 4.96**2) ** 0.5, rel=1e-3)


def test_no_number_is_off_by_more_than_half_a_scale():
    generator = torch.Generator().manual_seed(1)
    sent = Broadcast(1, PromptState({"a": torch.randn(40, 8, generator=generator), "b": torch.zeros(5)}))
    change = PromptState({"a": torch.randn(40, 8, generator=generator) / 50, "b": torch.arange(5.0)})
    update = Update(0, sent.shared + change, 1, 0.0, 0.0)
    made = quantizer("int8").outgoing(update, sent, NO_PROMPT, STREAMS)
    back = quantizer("int8").incoming(made.update, sent, STREAMS)
    for name, scale in zip(("a", "b"), made.update.shared["scales"].tolist(), strict=True):
        assert (back.shared[name] - update.shared[name]).abs().max().item() <= scale / 2 + 3e-7
    assert len(made.state) == 0


def test_float16_is_that_of_torch():
    change = torch.tensor([0.1, -2.0, 3e-5])
    made = quantizer("float16").outgoing(update_of(ctx=SENT.shared["ctx"] + change), SENT, NO_PROMPT, STREAMS)
    assert made.update.shared["float16:ctx"].dtype == torch.int16
    exact = (SENT.shared["ctx"] + change).double() - SENT.shared["ctx"].double()
    back = quantizer("float16").incoming(made.update, SENT, STREAMS).shared["ctx"]
    assert torch.equal(back, (SENT.shared["ctx"].double() + exact.half().double()).float())


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_the_residual_is_exactly_what_the_server_lacks(kind):
    """Over many rounds: all that the server received and the last residual are all that the client sent."""
    one, generator = quantizer(kind, feedback=True), torch.Generator().manual_seed(0)
    state, wanted, received = NO_PROMPT, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(30):
        update = update_of(ctx=SENT.shared["ctx"] + torch.randn(3, generator=generator))
        before = state["ctx"].double() if len(state) else 0
        made = one.outgoing(update, SENT, state, STREAMS)
        there = one.incoming(made.update, SENT, STREAMS).shared["ctx"].double()
        assert torch.equal(made.state["ctx"], (update.shared["ctx"].double() + before - there).float())
        state, wanted, received = made.state, wanted + update.shared["ctx"], received + there
    assert (wanted - received - state["ctx"]).abs().max().item() < 1e-6


def test_bytes_are_half_and_a_quarter_with_one_scale_a_tensor():
    sent = Broadcast(1, PromptState({"ctx": torch.zeros(16, 128)}))
    sizes = {
        kind: quantizer(kind)
        .outgoing(update_of(ctx=torch.ones(16, 128)), sent, NO_PROMPT, STREAMS)
        .update.shared.nbytes
        for kind in ("int8", "float16")
    }
    values = 16 * 128
    assert values + 4 < sizes["int8"] < values + 4 + 160  # 160: the header
    assert 2 * values < sizes["float16"] < 2 * values + 100


def test_whole_numbers_pass_and_a_tensor_that_was_not_sent_is_rounded_itself():
    update = update_of(ctx=[11.0, 20.0, 30.0], tokens=[3, 4], score=[0.5, -0.25])
    made = quantizer("float16").outgoing(update, SENT, NO_PROMPT, STREAMS)
    back = quantizer("float16").incoming(made.update, SENT, STREAMS)
    assert back == replace(update, shared=back.shared)
    assert back.shared == update.shared  # all of these are exact in float16


def test_nothing_changed_is_nothing_lost():
    made = quantizer("int8", feedback=True).outgoing(update_of(ctx=[10.0, 20.0, 30.0]), SENT, NO_PROMPT, STREAMS)
    assert made.figures == {"lost": 0.0}
    assert quantizer("int8").incoming(made.update, SENT, STREAMS).shared == SENT.shared


@pytest.mark.parametrize(
    ("kind", "tensors", "why"),
    [
        ("int8", {"ctx": [float("nan"), 0.0, 0.0]}, "not finite"),
        ("float16", {"ctx": [1e6, 0.0, 0.0]}, "float16 holds 65504 at most; use format int8"),
        ("int8", {"text": [104, 105]}, "sends text as whole numbers"),
        ("int8", {}, "sends nothing"),
    ],
)
def test_what_it_cannot_send_is_said(kind, tensors, why):
    with pytest.raises(ProcessorError, match=why):
        quantizer(kind).outgoing(update_of(**tensors), SENT, NO_PROMPT, STREAMS)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"ctx": torch.zeros(3)}, "finds no 0 real numbers"),
        ({"int8:ctx": torch.zeros(3, dtype=torch.int8)}, "finds no 1 real numbers"),
        ({"int8:ctx": torch.zeros(3, dtype=torch.int8), "scales": torch.zeros(2)}, "finds no 1 real numbers"),
        ({"int8:ctx": torch.zeros(3), "scales": torch.zeros(1)}, "not as torch.int8"),
        (
            {"int8:ctx": torch.zeros(3, dtype=torch.int8), "ctx": torch.zeros(3), "scales": torch.zeros(1)},
            "not rounded",
        ),
    ],
)
def test_what_it_did_not_make_is_refused(tensors, why):
    with pytest.raises(ProcessorError, match=why):
        quantizer("int8").incoming(update_of(**tensors), SENT, STREAMS)
