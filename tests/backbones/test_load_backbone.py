from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from promptfed.backbones import BACKBONES, load_backbone
from promptfed.backbones.device import pick_device, pick_dtype
from promptfed.errors import ConfigError


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone 'tny'. Did you mean 'tiny'\? Known: .*lit, open_clip"):
        load_backbone("tny")
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        load_backbone("tiny", device="gpu")
    with pytest.raises(ConfigError, match=r"unknown precision 'float61'. Did you mean 'float16'"):
        load_backbone("tiny", precision="float61")


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match=r"'cuda:99' is not there: torch .*; use --device cpu"):
        pick_device("cuda:99")
    for word in ("cuda:x", "cuda:", "cuda:\u00b2", "cuda:1:2", "cpu:1", "CUDA", "cuda:1000", "cuda\n", ""):
        with pytest.raises(ConfigError, match=r"unknown device .*Known: auto, cpu, cuda, cuda:1\."):
            pick_device(word)
    with pytest.raises(ConfigError, match=r"'mps' is not supported: .*float64.*; use --device cpu"):
        pick_device("mps")
    assert pick_dtype("bfloat16") is torch.bfloat16


@pytest.mark.slow
def test_listing_backbones_imports_no_model_library() -> None:
    heavy = {"open_clip", "timm", "transformers"}
    code = f"import sys, promptfed.backbones as b; print(len(b.BACKBONES), {heavy} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(len(BACKBONES)), "set()"]
