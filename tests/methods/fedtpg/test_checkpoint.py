from __future__ import annotations

import pickle

import pytest
import torch

from promptfed.errors import ConfigError, RunError
from promptfed.methods.fedtpg import FedTPG, FedTPGConfig
from promptfed.methods.fedtpg.checkpoint import read_released
from promptfed.methods.fedtpg.generator import ContextGenerator


@pytest.fixture
def saved(tmp_path):
    """``saved(generator, **more)``: its parameters in half precision, in a file laid out as the released ones."""

    def save(generator, rest=None, **changed):
        state = {name: t.half() for name, t in generator.start(torch.Generator().manual_seed(3)).items()}
        path = tmp_path / "model.pth.tar-500"
        about = {"epoch": 500, "optimizer": None, "scheduler": None, "val_result": None} if rest is None else rest
        torch.save({"state_dict": {**state, **changed}, **about}, path)
        return path

    return save


def test_half_precision_becomes_float32_exactly(saved):
    path = saved(ContextGenerator(512, 512))
    released = read_released(path)
    kept = torch.load(path, weights_only=True)["state_dict"]
    assert {name: tuple(t.shape) for name, t in released.state.items()} == ContextGenerator(512, 512).shapes
    assert all(t.dtype == torch.float32 for t in released.state.values())
    assert all(torch.equal(t.half(), kept[name]) for name, t in released.state.items())
    assert released.rounds == 500


def test_the_size_is_read_from_the_file(saved):
    released = read_released(saved(ContextGenerator(8, 8, n_ctx=6, layers=2), rest={}))
    assert released.options(1, {"lr": 0.1}) == {"lr": 0.1, "n_ctx": 6, "model_depth": 2, "prompt_depth": 1}
    overwritten = {"n_ctx": 2, "model_depth": 2, "prompt_depth": 3, "input_context": "overwritten"}
    assert released.options(3, {}) == overwritten
    with pytest.raises(ConfigError, match=r"'input_context' is kept, but .* has overwritten"):
        released.options(3, {"input_context": "kept"})
    assert released.rounds == 1
    with pytest.raises(ConfigError, match=r"'prompt_depth' is 4.*6 queries"):
        released.options(4, {})
    with pytest.raises(ConfigError, match=r"'n_ctx' is 4, but .* has 6"):
        released.options(1, {"n_ctx": 4})


def test_a_method_of_its_size_takes_it(saved, setup):
    released = read_released(saved(ContextGenerator(4, 3)))
    method = FedTPG(FedTPGConfig(), setup)
    released.check(method)
    assert torch.isfinite(method.class_features(released.state, released.state, ["red", "teal"])).all()


def test_what_does_not_fit_names_the_tensor_or_the_width(saved, setup):
    method = FedTPG(FedTPGConfig(), setup)
    with pytest.raises(RunError, match=r"512 wide, but .*'toy' are 4.*ViT-B-16"):
        read_released(saved(ContextGenerator(512, 512))).check(method)
    with pytest.raises(RunError, match=r"lacks 'meta_net.encoder.cross_attend_blocks.0.fn.k_proj_weight' \(3 such\)"):
        read_released(saved(ContextGenerator(4, 4))).check(method)
    with pytest.raises(RunError, match=r"unknown 'meta_net.transformer.layers.0.0.fn.in_proj_bias' \(12 such\)"):
        read_released(saved(ContextGenerator(4, 3, layers=1))).check(method)
    narrow = {"meta_net.encoder.cross_attend_blocks.1.net.3.bias": torch.zeros(5)}
    with pytest.raises(RunError, match=r"net.3.bias' is \(5,\), not \(4,\)"):
        read_released(saved(ContextGenerator(4, 3), **narrow)).check(method)


class Trap:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_objects_are_never_opened(tmp_path):
    torch.save(
        {"state_dict": {"meta_net.soft_prompt": torch.zeros(4, 8)}, "epoch": Trap(tmp_path / "sprung")}, tmp_path / "a"
    )
    (tmp_path / "b").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    for name in "ab":
        with pytest.raises(RunError, match="not a PyTorch file of plain tensors"):
            read_released(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weights": {}}, "no 'state_dict'"),
        ([torch.zeros(2)], "no 'state_dict'"),
        ({"state_dict": {"meta_net.soft_prompt": 3}}, "no 'state_dict' of named tensors"),
        ({"state_dict": {"ctx": torch.zeros(4, 512)}}, "it holds ctx"),
        ({"state_dict": {"meta_net.soft_prompt": torch.zeros(8)}}, r"no 'meta_net.soft_prompt' \(n_ctx, width\)"),
        ({"state_dict": {"meta_net.soft_prompt": torch.full((4, 8), torch.nan)}}, "not finite"),
        ({"state_dict": {"meta_net.soft_prompt": torch.zeros(1).expand(4, 10**9)}}, "more values than the 1"),
        ({"state_dict": {"meta_net.soft_prompt": torch.empty(4, 10**9, device="meta")}}, "no plain tensor"),
        ({"state_dict": {"meta_net.soft_prompt": torch.eye(4).to_sparse()}}, "no plain tensor"),
        ({"state_dict": {"meta_net.soft_prompt": torch.ones(4, 8, dtype=torch.complex64)}}, "no plain tensor"),
    ],
)
def test_other_files_are_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "file")
    with pytest.raises(RunError, match=said):
        read_released(tmp_path / "file")


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"nowhere' does not exist"):
        read_released(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no file"):
        read_released(tmp_path)
    for content in (b"", b"PK\x03\x04 cut short", b"hello"):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(RunError, match="not a PyTorch file"):
            read_released(tmp_path / "file")
