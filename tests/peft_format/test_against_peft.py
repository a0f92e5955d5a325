"""The installed PEFT is the judge: its ``forward`` on what we write, and our reading of what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from promptfed.errors import ConfigError, FormatError
from promptfed.inserts.base import InsertKind
from promptfed.inserts.ia3 import IA3
from promptfed.inserts.low_rank import RESIDUAL, LowRank, factor_name
from promptfed.inserts.prefix import Prefix
from promptfed.inserts.prompt_encoder import PromptEncoder
from promptfed.inserts.soft_prompt import SoftPrompt
from promptfed.peft_format.from_kind import adapter_of
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


def kind_and_values(what: str, name: str, model: Any) -> tuple[InsertKind, dict[str, torch.Tensor]]:
    """A kind of insert for the model, and values far from its start."""
    base = sizes(name, model)
    kind: InsertKind
    if what == "soft":
        return SoftPrompt(None, N, "random", "", 0), {"prompt_embeddings": drawn(N, WIDTH)}  # type: ignore[arg-type]
    if what == "encoder":
        kind = PromptEncoder(N, WIDTH, 1, output=drawn(N, WIDTH))
        return kind, dict(kind.start())
    if what == "prefix":
        kind = Prefix(N, LAYERS, base.kv_heads * base.head_size, 1)
        return kind, {"prompt_embeddings": drawn(*kind.shape)}
    if what == "ia3":
        names, second = TARGETS.get(name, ("query", "value")), FEEDFORWARD.get(name, "output.dense")
        outputs = [path for path in base.matrices if path.rpartition(".")[2] in names]
        inputs = [path for path in base.matrices if path.endswith("." + second) and "attention" not in path]
        kind = IA3(base.matrices, outputs, inputs)
        return kind, {key: 1 + drawn(*one.shape, seed=k) for k, (key, one) in enumerate(kind.start().items())}
    kind = LowRank(base.matrices, TARGETS.get(name, ("query", "value")), 1, r=2, alpha=3)
    values = {key: drawn(*one.shape, seed=k) for k, (key, one) in enumerate(kind.start().items())}
    first, second, *_ = kind.paths
    values[factor_name(first, "lora_A.weight", RESIDUAL)] = drawn(3, base.matrices[first][1], seed=90)  # a second term
    values[factor_name(first, "lora_B.weight", RESIDUAL)] = drawn(base.matrices[first][0], 3, seed=91)
    values[factor_name(second, "lora_A.weight")] = drawn(5, base.matrices[second][1], seed=92)  # a rank of its own
    values[factor_name(second, "lora_B.weight")] = drawn(base.matrices[second][0], 5, seed=93)
    return kind, values


CASES = [(kind, name) for name in FAMILIES for kind in ("soft", "low rank", "ia3")]
CASES += [("prefix", "llama"), ("prefix", "gemma"), ("encoder", "llama")]
QUICK = (("low rank", "llama"), ("soft", "masked"))
CASES = [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("what", "name"), CASES)
def test_an_adapter_that_we_write_has_the_same_logits_in_peft(tmp_path: Path, peft: Any, what: str, name: str) -> None:
    model = made(name)
    kind, values = kind_and_values(what, name, model)
    insert = kind.insert(values)
    ours, plain = by_hand(model, insert), output(model, input_ids=IDS)
    assert ours.shape[1] != plain.shape[1] or (ours - plain).abs().max() > 1e-3  # it does something
    write_adapter(tmp_path / "a", adapter_files(adapter_of(kind, values, sizes(name, model))))
    again = by_hand(model, read_adapter(tmp_path / "a").insert())
    theirs = output(peft.PeftModel.from_pretrained(made(name), tmp_path / "a"), input_ids=IDS)
    within = {"atol": 2e-6 * float(ours.abs().max().clamp(min=1)), "rtol": 0.0}  # T5's are large; rounding
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


def test_the_prefix_of_a_t5_is_refused_as_peft_loses_half_of_it(tmp_path: Path, peft: Any) -> None:
    """By hand what PEFT computes: layer k of the decoder has the keys and values of layer 2k, modulo their number."""
    from transformers import DynamicCache, EncoderDecoderCache

    model, prefix = made("t5"), drawn(N, LAYERS * 2 * WIDTH)
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=N)
    adapted = peft.get_peft_model(made("t5"), config).eval()
    adapted.prompt_encoder["default"].embedding.weight.data.copy_(prefix)
    adapted.save_pretrained(tmp_path)
    own = DynamicCache()
    layers = prefix.view(N, LAYERS, 2, 4, -1).permute(1, 2, 3, 0, 4)
    for layer in range(LAYERS):
        keys, values = layers[2 * layer % LAYERS]
        own.update(keys.expand(len(IDS), -1, -1, -1), values.expand(len(IDS), -1, -1, -1), layer)
    with torch.no_grad():
        theirs = output(adapted, input_ids=IDS)
        ours = output(model, input_ids=IDS, past_key_values=EncoderDecoderCache(own, DynamicCache()))
    torch.testing.assert_close(theirs, ours, atol=2e-6 * float(ours.abs().max().clamp(min=1)), rtol=0.0)
    assert (theirs - output(model, input_ids=IDS)).abs().max() > 1e-3
    with pytest.raises(FormatError, match="is a prefix for an encoder-decoder"):
        read_adapter(tmp_path)
    with pytest.raises(
        ConfigError, match=r"PEFT cannot express this adapter \(is a prefix for an encoder-decoder, .*\): "
    ):
        adapter_of(Prefix(N, LAYERS, WIDTH, 1), {"prompt_embeddings": prefix}, sizes("t5", model))
