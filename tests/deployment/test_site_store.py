"""What a site keeps on its disk is what was written, or is refused in one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr")

from promptfed.deployment.messages import SiteAgreement, Train
from promptfed.deployment.site_store import SiteStore
from promptfed.errors import DeploymentError
from promptfed.prompt_state import PromptState

RUN = "0" * 32
SHARED = PromptState({"ctx": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(2)})


@pytest.fixture
def store(tmp_path: Path) -> SiteStore:
    agreement = SiteAgreement(
        run=RUN,
        simulated=True,
        config={"rounds": 3},
        base_classes=("a", "b"),
        templates=("{}",),
        sites=(),
        fingerprint="f" * 64,
    )
    kept = SiteStore(tmp_path, RUN)
    kept.sent(Train(agreement=agreement, stage="promptfl", client=1, round=3, start=2), SHARED)
    return kept


def test_it_is_read_as_it_was_sent(store: SiteStore) -> None:
    sent = store.last_sent("promptfl")
    assert (sent.client, sent.after, sent.start) == (1, 2, 2)
    assert sent.shared.sha256() == SHARED.sha256()
    assert store.agreement().base_classes == ("a", "b")


@pytest.mark.parametrize("name", ["agreement.json", "promptfl/sent.safetensors"])
def test_any_flipped_bit_is_refused_in_one_line(store: SiteStore, name: str) -> None:
    path, draw = store.folder / name, random.Random(5)
    whole = path.read_bytes()
    for _ in range(150):
        bit = draw.randrange(8 * len(whole))
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        kept, problem = _read(store, name)
        if problem:
            assert str(path) in problem
            assert "\n" not in problem
        else:  # a blank of the layout became another one: the content is the same
            assert name.endswith("json")
            path.write_bytes(whole)
            assert kept == store.agreement()
    path.write_bytes(whole)
    assert store.agreement()
    assert store.last_sent("promptfl")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"run": "x"}', b"[1]", b"\x00" * 40])
def test_other_content_is_refused_with_the_way_out(store: SiteStore, content: bytes) -> None:
    for name, read in (("agreement.json", store.agreement), ("promptfl/sent.safetensors", None)):
        (store.folder / name).write_bytes(content)
        with pytest.raises(DeploymentError, match="bring it back from a backup"):
            read() if read else store.last_sent("promptfl")


def _read(store: SiteStore, name: str) -> tuple[object, str]:
    """What the file holds, or why it is refused."""
    try:
        return (store.agreement() if name.endswith("json") else store.last_sent("promptfl")), ""
    except DeploymentError as error:
        return None, str(error)
