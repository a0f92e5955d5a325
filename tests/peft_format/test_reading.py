"""A stranger's folder: what is wrong with it is said on one line, and nothing in it is run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from promptfed.errors import FormatError
from promptfed.peft_format.config import parse_config
from promptfed.peft_format.reading import read_adapter

Q, V = "base_model.model.model.layers.0.self_attn.q_proj", "base_model.model.model.layers.0.self_attn.v_proj"
SOFT = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 2}
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
FACTORS = {f"{Q}.lora_A.weight": torch.ones(2, 5), f"{Q}.lora_B.weight": torch.ones(3, 2)}


def folder(path: Path, config: Any, tensors: dict[str, torch.Tensor]) -> Path:
    (path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def scale_of(path: Path, **more: Any) -> float:
    adapter = read_adapter(folder(path, {**LORA, **more}, FACTORS))
    return adapter.insert().low_rank["model.layers.0.self_attn.q_proj"][0].scale


def test_the_scale_follows_alpha_rank_and_patterns(tmp_path: Path) -> None:
    assert scale_of(tmp_path) == 2
    assert scale_of(tmp_path, use_rslora=True) == pytest.approx(4 / 2**0.5)
    assert scale_of(tmp_path, alpha_pattern={"layers.0.self_attn.q_proj": 3, "q_proj": 9}) == 1.5  # the first that fits
    assert scale_of(tmp_path, alpha_pattern={"k_proj": 3}) == 2
    assert scale_of(tmp_path, r=16, rank_pattern={"q_proj": 2}) == 2
    assert scale_of(tmp_path, r=16, rank_pattern={r".*q_.*": 2}) == 2  # an expression: the tensors say the rank


def test_half_precision_and_heads(tmp_path: Path) -> None:
    head = {"base_model.model.score.weight": torch.ones(3, 4)}
    adapter = read_adapter(folder(tmp_path, LORA, {name: t.half() for name, t in FACTORS.items()} | head))
    assert all(tensor.dtype == torch.float32 for tensor in adapter.tensors.values())
    assert adapter.beside == tuple(head)
    assert adapter.paths == ("model.layers.0.self_attn.q_proj",)


def test_only_the_encoders_half_of_a_t5_prompt_is_read(tmp_path: Path) -> None:
    rows = torch.arange(12.0).view(4, 3)
    config = {**SOFT, "task_type": "SEQ_2_SEQ_LM"}
    torch.testing.assert_close(
        read_adapter(folder(tmp_path, config, {"prompt_embeddings": rows})).insert().soft, rows[:2]
    )
    config["num_transformer_submodules"] = 1
    with pytest.raises(FormatError, match=r"shape \(4, 3\), and its config says 2 rows"):
        read_adapter(folder(tmp_path, config, {"prompt_embeddings": rows}))


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ([], {}, "holds no JSON object"),
        ({"peft_type": "VERA"}, {}, "has peft_type 'VERA'; read are PROMPT_TUNING"),
        ({"peft_type": "PROMPT_TUNING"}, {}, "says no num_virtual_tokens"),
        ({**SOFT, "num_virtual_tokens": 0}, {}, "is wrong in num_virtual_tokens"),
        ({**SOFT, "task_type": "POETRY"}, {}, "has task_type 'POETRY'"),
        ({**LORA, "use_dora": True}, FACTORS, "uses use_dora"),
        ({**LORA, "bias": "all"}, FACTORS, "has bias 'all'"),
        ({**LORA, "init_lora_weights": "pissa_niter_4"}, FACTORS, "for which PEFT changes the base model"),
        ({**LORA, "init_lora_weights": [1]}, FACTORS, "for which PEFT changes the base model"),
        ({**LORA, "alpha_pattern": {"(a+)+$": 1}}, FACTORS, "regular expressions, which are not run"),
        ({**LORA, "lora_alpha": 10**400}, FACTORS, "not usable JSON"),
        (LORA, {}, "holds no tensor"),
        (LORA, {f"{Q}.lora_A.weight": torch.ones(2, 5)}, "lacks lora_B of module 'model.layers.0.self_attn.q_proj'"),
        (LORA, {**FACTORS, f"{V}.lora_magnitude_vector": torch.ones(3)}, "which is none of LORA"),
        (LORA, {**FACTORS, f"{Q}.lora_B.weight": torch.ones(2, 3)}, r"they must be \(r, in\) and \(out, r\)"),
        ({**LORA, "r": 4}, FACTORS, "has factors of rank 2 .* its config says 4"),
        ({**LORA, "target_modules": ["k_proj"]}, FACTORS, "which target_modules does not name"),
        ({"peft_type": "IA3", "target_modules": ["q_proj"]}, {f"{Q}.ia3_l": torch.ones(1, 5)}, r"must be \(out, 1\)"),
        (SOFT, {"prompt_embeddings": torch.ones(3, 4)}, "its config says 2 rows"),
        (SOFT, {"prompt_embeddings": torch.full((2, 4), torch.nan)}, "not finite in 'prompt_embeddings'"),
        (SOFT, {"prompt_embeddings": torch.ones(2, 4, dtype=torch.int64)}, "of type I64, not of floats"),
        (SOFT, {"prompt_embeddings": torch.ones(2, 4), "more": torch.ones(1)}, "a PROMPT_TUNING holds"),
    ],
)
def test_what_is_wrong_is_said_on_one_line(tmp_path: Path, config: Any, tensors: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        read_adapter(folder(tmp_path, config, tensors))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_prefix_must_have_the_width_that_its_config_says() -> None:
    config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2, "num_layers": 3, "token_dim": 4}
    from promptfed.peft_format.adapter import check_shapes

    check_shapes(parse_config(config), {"prompt_embeddings": (2, 24)})
    with pytest.raises(FormatError, match="24"):
        check_shapes(parse_config(config), {"prompt_embeddings": (2, 23)})


def test_old_files_of_torch_are_read_and_their_pickle_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    torch.save(FACTORS, tmp_path / "adapter_model.bin")
    assert read_adapter(tmp_path).insert().low_rank["model.layers.0.self_attn.q_proj"][0].scale == 2

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps({"prompt_embeddings": Trap()}))
    with pytest.raises(FormatError):
        read_adapter(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_without_an_adapter_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"is no adapter of PEFT: .*adapter_config.json is missing"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(SOFT))
    with pytest.raises(FormatError, match=r"adapter_model.safetensors is missing"):
        read_adapter(tmp_path)
