"""A run that begins with a folder of PEFT: the same model, whatever the rank, and one-line refusals."""

from __future__ import annotations

import pytest
import torch

from promptfed.adapter_start import adapter_state, shared_from_adapter
from promptfed.errors import ConfigError
from promptfed.method import METHODS
from promptfed.peft_format.from_kind import adapter_of
from promptfed.peft_format.writing import adapter_files, write_adapter
from promptfed.types import NO_PROMPT, Broadcast

from .tiny_language_models import CLASSES, client, setup, split


def make(name, **options):
    kind = METHODS[name]
    return kind(kind.Config(**options), setup("llama"))


@pytest.fixture
def written(tmp_path):
    """Train a method one round, and write what it learned as PEFT's folder."""

    def write(name, **options):
        method = make(name, **options)
        shared = method.train(Broadcast(1, method.init_shared()), client(), NO_PROMPT)[0].shared
        write_adapter(tmp_path / name, adapter_files(adapter_of(method.kind, shared, method.model)))
        return method, shared, tmp_path / name

    return write


@pytest.mark.parametrize(
    ("name", "options"), [("fedprompt", {"n_tokens": 3}), ("fedprefix", {"n_tokens": 3}), ("fedia3", {}), ("fedit", {})]
)
def test_what_was_exported_is_begun_with(written, name, options):
    method, shared, folder = written(name, lr=0.1, **options)
    state, words = adapter_state(folder)
    assert words == f"adapter {name} ({method.kind.peft_type})"
    start = shared_from_adapter(make(name, **options), state)
    expected = method.logits(shared, NO_PROMPT, CLASSES, split())
    torch.testing.assert_close(method.logits(start, NO_PROMPT, CLASSES, split()), expected, atol=1e-5, rtol=1e-5)
    untrained = method.logits(method.init_shared(), NO_PROMPT, CLASSES, split())
    assert not torch.allclose(untrained, expected, atol=1e-3)


def test_a_lower_rank_is_filled_up_with_what_changes_nothing(written):
    _, _, folder = written("fedit", lr=0.1, r=2)
    low, high = make("fedit", r=2), make("fedit", r=5, alpha=40)
    state, _ = adapter_state(folder)
    scores = [m.logits(shared_from_adapter(m, state), NO_PROMPT, CLASSES, split()) for m in (low, high)]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_one_line(written):
    _, _, folder = written("fedit", r=4)
    state, _ = adapter_state(folder)
    for method, said in (
        (make("fedprompt"), "init does not fit FedPrompt: the adapter holds no soft prompt"),
        (make("fedit", r=2), r"has factors of rank 4 .*--set method.r=4"),
        (make("fedit", targets=("q_proj",)), r"changes 'model.*v_proj', which this method leaves as it is: --set"),
    ):
        with pytest.raises(ConfigError, match=said):
            shared_from_adapter(method, state)
    prompt, _ = adapter_state(written("fedprompt", n_tokens=3)[2])
    with pytest.raises(ConfigError, match=r"a prompt of shape \(3, 32\), and the method's is \(4, 32\): --set .*=3"):
        shared_from_adapter(make("fedprompt", n_tokens=4), prompt)
    with pytest.raises(ConfigError, match="init cannot be read"):
        adapter_state(folder.parent / "nothing")
