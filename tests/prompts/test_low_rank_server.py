"""Servers whose shared prompt changes its names and shapes: what screening, checkpoints and processors make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from promptfed.aggregators.mean import Mean
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ProcessorError
from promptfed.federation import Federation
from promptfed.first_update import first_update
from promptfed.privacy.clip import Clip
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint
from promptfed.types import FederatedTask

from ..methods.tiny_language import CLASSES, clients, make, setup_of

CHANGING: dict[str, dict[str, Any]] = {
    "fedex_lora": {},
    "rolora": {},
    "slora": {"sparse_rounds": 2},
    "fedsb": {},
    "flex_lora": {"cut": "energy", "ranks": (1, 3)},
    "fedlora_pfl": {},
}


def federation_of(name: str) -> Federation:
    data = clients()
    task = FederatedTask("texts", CLASSES, (), data, data[0].test, data[0].test, ("",))
    method = make(name, setup_of(), **CHANGING[name])
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, task)), [0, 1])


@pytest.mark.parametrize("name", CHANGING)
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, resumed = federation_of(name), federation_of(name)
    state = whole.start()
    for _ in range(3):
        if state.round == 2:
            save_checkpoint(tmp_path, state, events_bytes=0)
        state, replies = whole.run_round(state)
        assert not [reply.failure for reply in replies if reply.failure]
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    again, _ = resumed.run_round(resumed.resumed(checkpoint.state))
    assert again.shared == state.shared
    assert again.server == state.server
    assert dict(again.personal) == dict(state.personal)


def test_ranks_that_do_not_come_back_as_sent_are_seen_by_clipping_at_the_start() -> None:
    clip = Clip(Clip.Config())
    for cut, fits in (("rank", True), ("energy", False), ("stack", False)):
        broadcast, update = first_update(make("flex_lora", setup_of(), cut=cut), Mean(Mean.Config()), 0)
        if fits:
            clip.check(update, broadcast)
            continue
        with pytest.raises(ProcessorError, match="limits changes from the broadcast"):
            clip.check(update, broadcast)
