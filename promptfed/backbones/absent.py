"""What stands in the place of the backbone where the model is a black box: any use of it says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from PIL import Image

from promptfed.backbones.base import Backbone, CallCount
from promptfed.errors import ConfigError


class AbsentBackbone(Backbone):
    """No white box: a method that asks for one is told that it cannot run on a black-box task."""

    name, text_dim, embed_dim, logit_scale, context_length = "none", 0, 0, 1.0, 0

    def __init__(self) -> None:
        self.device, self.calls, self._loaded_sha256 = torch.device("cpu"), CallCount(), ""

    @property
    def fingerprint(self) -> str:
        return ""

    def weights_sha256(self) -> str:
        return ""

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            "this needs a white-box backbone, but the task's model is a black box (an oracle): choose a black-box "
            "method (promptfed list methods), or a task such as clip-fewshot"
        )

    def preprocess(self, image: Image.Image) -> Any:
        self._refuse()

    def encode_images(self, pixels: Any) -> Any:
        self._refuse()

    def encode_text(self, texts: Sequence[str]) -> Any:
        self._refuse()

    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Any = "end") -> Any:
        self._refuse()

    def encode_embeddings(self, vectors: Any, end: Any, deep: Any = None) -> Any:
        self._refuse()

    def embed_words(self, text: str) -> Any:
        self._refuse()
