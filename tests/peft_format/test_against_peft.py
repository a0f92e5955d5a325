"""The installed PEFT is the judge: its ``forward`` on what we write, and our reading of what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from promptfed.language_models.insert import Factors, Insert
from promptfed.peft_format.from_insert import adapter_of
from promptfed.peft_format.reading import read_adapter
from promptfed.peft_format.writing import adapter_files, write_adapter

from .tiny_models import (
    FAMILIES,
    FEEDFORWARD,
    IDS,
    LAYERS,
    TARGETS,
    WIDTH,
    N,
    by_hand,
    made,
    output,
    sizes,
)


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft")


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def insert_of(kind: str, name: str, model: Any) -> Insert:
    base = sizes(name, model)
    if kind == "soft":
        return Insert(soft=drawn(N, WIDTH))
    if kind == "prefix":
        return Insert(prefix=drawn(N, LAYERS * 2 * base.kv_heads * base.head_size))
    names = TARGETS.get(name, ("query", "value"))
    paths = {path: shape for path, shape in base.matrices.items() if path.rpartition(".")[2] in names}
    if kind == "ia3":
        feedforward = FEEDFORWARD.get(name, "output.dense")
        paths |= {path: (1, shape[1]) for path, shape in base.matrices.items() if path.endswith("." + feedforward)}
        paths = {path: shape if shape[0] == 1 else (shape[0], 1) for path, shape in paths.items()}
        if name in ("bert", "masked"):  # the output of attention ends alike, and has its own output scaled
            paths = {path: (WIDTH, 1) if "attention.output" in path else shape for path, shape in paths.items()}
        return Insert(ia3={path: 1 + drawn(*shape) for path, shape in paths.items()})
    # ranks and scales of their own, and a module that has two terms
    low_rank = {
        path: tuple(Factors(drawn(2 + k % 2, i, seed=k), drawn(o, 2 + k % 2, seed=k + 50), 0.5 + k % 3) for k in ks)
        for ks, (path, (o, i)) in zip(((1,), (2,), (3,), (4, 5), *((6,),) * 20), paths.items(), strict=False)
    }
    return Insert(low_rank=low_rank)


CASES = [(kind, name) for name in FAMILIES for kind in ("soft", "low rank", "ia3")]
CASES += [("prefix", "llama"), ("prefix", "gemma")]
QUICK = (("low rank", "llama"), ("soft", "masked"))
CASES = [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_an_adapter_that_we_write_has_the_same_logits_in_peft(tmp_path: Path, peft: Any, kind: str, name: str) -> None:
    model = made(name)
    insert = insert_of(kind, name, model)
    ours, plain = by_hand(model, insert), output(model, input_ids=IDS)
    assert ours.shape[1] != plain.shape[1] or (ours - plain).abs().max() > 1e-3  # it does something
    write_adapter(tmp_path / "a", adapter_files(adapter_of(insert, sizes(name, model)), "a page"))
    again = by_hand(model, read_adapter(tmp_path / "a").insert())
    theirs = output(peft.PeftModel.from_pretrained(made(name), tmp_path / "a"), input_ids=IDS)
    within = {"atol": 1e-6 * float(ours.abs().max().clamp(min=1)), "rtol": 0.0}  # T5's logits are not of order 1
    torch.testing.assert_close(theirs, ours, **within)
    torch.testing.assert_close(again, ours, **within)


THEIRS = {
    "soft": ("PromptTuningConfig", {"num_virtual_tokens": N}),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": N, "encoder_hidden_size": 16}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": N, "prefix_projection": True, "encoder_hidden_size": 8}),
    "lora": ("LoraConfig", {"r": 4, "lora_alpha": 6, "rank_pattern": {"layers.1.self_attn.q_proj": 2},
                               "alpha_pattern": {"v_proj": 3}, "init_lora_weights": False}),
    "rslora": ("LoraConfig", {"r": 4, "use_rslora": True, "init_lora_weights": False, "target_modules": ".*q_proj"}),
    "ia3": ("IA3Config", {"init_ia3_weights": False}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", THEIRS)
def test_an_adapter_that_peft_writes_reads_the_same(tmp_path: Path, peft: Any, kind: str) -> None:
    config, options = THEIRS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = peft.get_peft_model(made("llama"), getattr(peft, config)(task_type="CAUSAL_LM", **options)).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        ours, theirs = by_hand(made("llama"), read_adapter(tmp_path).insert()), output(model, input_ids=IDS)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert ours.shape[1] != IDS.shape[1] or (ours - output(made("llama"), input_ids=IDS)).abs().max() > 1e-4
