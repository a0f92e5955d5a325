"""FedTPG's released checkpoints: a generator's parameters out of ``prompt_learner/model.pth.tar-500``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from promptfed.errors import ConfigError, FormatError, RunError
from promptfed.method import Method
from promptfed.methods.fedtpg.generator import PREFIX
from promptfed.printable import printable
from promptfed.prompt_state import PromptState
from promptfed.readers.tensors import MOST_BYTES
from promptfed.readers.torch_files import read_torch

MOST_ROUNDS = 10**6
QUERIES = f"{PREFIX}soft_prompt"
LAYER = re.compile(re.escape(PREFIX) + r"transformer\.layers\.(\d+)\.")


@dataclass(frozen=True)
class ReleasedGenerator:
    """A generator's parameters in float32, and how many rounds it was trained for (1 if the file does not say)."""

    path: Path
    state: PromptState
    rounds: int

    @property
    def model_depth(self) -> int:
        return 1 + max((int(match[1]) for name in self.state if (match := LAYER.match(name))), default=-1)

    def options(self, prompt_depth: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in the method options that the file decides.

        The file does not hold ``prompt_depth``, by which its ``n_ctx * prompt_depth`` queries are divided.

        Args:
            prompt_depth: How many blocks get contexts.
            options: The user's method options.

        Raises:
            ConfigError: ``options`` contradict the file.
        """
        queries = len(self.state[QUERIES])
        if queries % prompt_depth:
            raise ConfigError(
                f"option 'prompt_depth' is {prompt_depth}, which does not divide the {queries} queries of checkpoint "
                f"'{self.path}'"
            )
        fixed: dict[str, Any] = {
            "n_ctx": queries // prompt_depth,
            "model_depth": self.model_depth,
            "prompt_depth": prompt_depth,
        }
        if prompt_depth > 1:  # what the file was trained as: the released code overwrites the first context
            fixed["input_context"] = "overwritten"
        for name, value in fixed.items():
            if options.get(name, value) != value:
                raise ConfigError(
                    f"option '{name}' is {options[name]}, but checkpoint '{self.path}' has {value}: leave it out"
                )
        return {**options, **fixed}

    def check(self, method: Method) -> None:
        """Check that ``method`` (FedTPG) can take the parameters.

        Raises:
            RunError: It cannot; the message names the tensor and the way out.
        """
        backbone, width = method.setup.backbone, self.state[QUERIES].shape[1]
        if width != backbone.text_dim:
            raise RunError(
                f"checkpoint '{self.path}' is {width} wide, but the tokens of backbone '{backbone.name}' are "
                f"{backbone.text_dim}: use the backbone it was trained with, such as open_clip:ViT-B-16/openai for 512"
            )
        expected = {name: tuple(tensor.shape) for name, tensor in method.init_shared().items()}
        for fault, names in (
            ("lacks", expected.keys() - self.state.keys()),
            ("has an unknown", self.state.keys() - expected.keys()),
        ):
            if names:
                raise RunError(
                    f"checkpoint '{self.path}' {fault} '{min(names)}' ({len(names)} such): it is no generator of "
                    f"FedTPG for backbone '{backbone.name}'"
                )
        for name, shape in expected.items():
            if tuple(self.state[name].shape) != shape:
                raise RunError(
                    f"checkpoint '{self.path}': '{name}' is {tuple(self.state[name].shape)}, not {shape} as FedTPG on "
                    f"backbone '{backbone.name}' needs"
                )


def read_released(path: Path) -> ReleasedGenerator:
    """Read a checkpoint: a dictionary whose ``state_dict`` holds tensors in any precision.

    Only tensors and plain values are unpickled.

    Raises:
        RunError: The file is missing or is something else.
    """
    if not path.is_file():
        raise RunError(
            f"checkpoint '{path}' does not exist" if not path.exists() else f"checkpoint '{path}' is no file"
        )
    try:
        content = read_torch(path, MOST_BYTES)
    except OSError as error:
        raise RunError(f"cannot read checkpoint '{path}': {error.strerror or error}") from error
    except FormatError as error:
        raise RunError(f"not a PyTorch file of plain tensors, which are all that is opened: {error}") from error
    tensors = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise RunError(f"checkpoint '{path}' has no 'state_dict' of named tensors, as FedTPG's released files have")
    queries = tensors.get(QUERIES)
    if queries is None or queries.dim() != 2 or not len(queries):
        raise RunError(
            f"checkpoint '{path}' has no '{QUERIES}' (n_ctx, width): it is no generator of FedTPG; "
            f"it holds {printable(', '.join(map(str, list(tensors)[:3])) or 'nothing', 200)}"
        )
    state = PromptState({str(name): tensor for name, tensor in tensors.items()})
    if not state.is_finite():
        raise RunError(f"checkpoint '{path}' holds numbers that are not finite")
    epoch = content.get("epoch")
    return ReleasedGenerator(path, state, epoch if isinstance(epoch, int) and 1 <= epoch <= MOST_ROUNDS else 1)
