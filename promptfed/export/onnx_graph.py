"""What a bundle says of an image as one ONNX graph: pixels in, scores and probabilities of its classes out.

The method's own prediction is traced, over a store of features whose images are the graph's input. What it makes of
class names is computed once before and stands in the graph as numbers. Whether the graph says the same as promptfed is
tried with onnxruntime, on other images and other batch sizes than it was traced with.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from promptfed.backbones.base import Backbone
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.passing import PassingStore, PreparedImage
from promptfed.errors import ConfigError, MissingPackageError, PromptFedError
from promptfed.export.bundle import Bundle
from promptfed.export.predict import Predictor, unlabelled
from promptfed.printable import LONGEST, printable
from promptfed.seeding import torch_stream
from promptfed.stderr_log import quieted
from promptfed.types import Split

OPSET = 17
TOLERANCE = 1e-4
"""How far a probability may be from promptfed's; a score, relative to the largest."""
BATCHES = (1, 2, 5)
TRACED = 3
"""Images that the graph is traced with; none of ``BATCHES``."""
LARGEST = 2_000_000_000
"""Bytes of one file of ONNX."""
INPUT, OUTPUTS = "pixels", ("logits", "probabilities")
TEXT_CALLS = frozenset(
    ("encode_text", "encode_embeddings", "encode_prompted_text", "encode_prompted_texts", "embed_words", "class_tokens")
)
"""Methods of a backbone that see no image."""


@dataclass(frozen=True)
class OnnxModel:
    """A graph as the bytes of a file.

    Attributes:
        content: The file.
        shape: Of one image, (3, height, width).
        difference: The largest difference of a probability from promptfed's; None: onnxruntime is not installed.
    """

    content: bytes
    shape: tuple[int, ...]
    difference: float | None


def onnx_model(bundle: Bundle, backbone: Backbone) -> OnnxModel:
    """Return what ``bundle`` says of an image as an ONNX graph.

    Raises:
        MissingPackageError: onnx is not installed.
        ConfigError: The method has no graph, or the graph says something else.
    """
    if find_spec("onnx") is None:
        raise MissingPackageError("an ONNX file needs onnx and onnxruntime: pip install 'promptfed[onnx]'")
    classifier = _Classifier(bundle, backbone)
    shape = tuple(backbone.preprocess(Image.new("RGB", (64, 64), "grey")).shape)
    example = _noise(TRACED, shape)
    with torch.no_grad():
        classifier.prepare(example)
        try:
            content = _traced(classifier, example)
        except PromptFedError:
            raise
        except Exception as error:  # the exporter raises many kinds, for each operation that it does not know
            raise ConfigError(f"method '{bundle.meta.method}' has no ONNX graph: {_shortened(error)}") from error
    difference = None
    if find_spec("onnxruntime") is not None:
        difference = _compared(content, Predictor(bundle, DualEncoder(PassingStore(backbone))), shape)
    return OnnxModel(content, shape, difference)


class _Recorded:
    """A backbone that remembers what it made of texts, call by call, and then says the same again.

    So the text tower is no part of a graph that is traced the second time.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone, self._answers = backbone, list[Any]()
        self._replayed: Iterator[Any] | None = None

    def replay(self) -> None:
        """Say from now on what was said before, from the first call on."""
        self._replayed = iter(self._answers)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backbone, name)
        return self._asked(value) if name in TEXT_CALLS else value

    def _asked(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def answered(*args: Any, **options: Any) -> Any:
            if self._replayed is not None:
                return next(self._replayed)
            self._answers.append(call(*args, **options))
            return self._answers[-1]

        return answered


class _TracedStore(PassingStore):
    """A store whose images are the input of a graph."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.input = torch.empty(0)

    def images(self, split: Split) -> Tensor:
        return self.backbone.encode_images(self.input)

    def patches(self, split: Split) -> Tensor:
        return self.backbone.encode_patches(self.input)

    def pixels(self, split: Split, rows: Tensor | None = None) -> Tensor:
        return self.input


class _Classifier(nn.Module):
    """Pixels ``(batch, 3, height, width)`` -> scores and probabilities ``(batch, classes)``."""

    def __init__(self, bundle: Bundle, backbone: Backbone) -> None:
        super().__init__()
        self._recorded = _Recorded(backbone)
        self._bundle, self._backbone = bundle, backbone

    def prepare(self, pixels: Tensor) -> None:
        """Compute once what depends on class names alone."""
        self._scores(pixels)
        self._recorded.replay()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._scores(pixels)
        return logits, logits.softmax(-1)

    def _scores(self, pixels: Tensor) -> Tensor:
        store = _TracedStore(self._recorded)
        store.input = pixels
        predictor = Predictor(self._bundle, DualEncoder(store))
        return predictor.scores(unlabelled([PreparedImage(torch.empty(0), "")] * TRACED)).float()


def _shortened(error: Exception) -> str:
    """Return the first line of what the exporter says, which goes on with the whole graph."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0].strip(), LONGEST)


def _traced(classifier: _Classifier, example: Tensor) -> bytes:
    """Return the graph as the bytes of a file. Raises ConfigError if it is too large for one."""
    axes = {name: {0: "batch"} for name in (INPUT, *OUTPUTS)}
    with tempfile.TemporaryDirectory(prefix="promptfed-onnx-") as folder, _quietly():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            classifier.eval(),
            (example,),
            str(path),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        if len(list(Path(folder).iterdir())) > 1 or path.stat().st_size > LARGEST:
            raise ConfigError(f"the graph is larger than {LARGEST / 1e9:.0f} GB, which one ONNX file cannot hold")
        return path.read_bytes()


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave out the exporter's warnings, and the fast path of attention, which ONNX does not know."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with quieted("torch.onnx", logging.ERROR), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _compared(content: bytes, predictor: Predictor, shape: tuple[int, ...]) -> float:
    """Return the largest difference of a probability. Raises ConfigError if it is more than ``TOLERANCE``."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    method, largest = predictor.bundle.meta.method, 0.0
    for batch in BATCHES:
        pixels = _noise(batch, shape)
        try:
            logits, probabilities = session.run(list(OUTPUTS), {INPUT: pixels.numpy()})
        except Exception as error:  # onnxruntime's own kinds: a graph for one batch size, say
            raise ConfigError(
                f"method '{method}' has no ONNX graph for any number of images: {_shortened(error)}"
            ) from error
        with torch.no_grad():
            expected = predictor.scores(unlabelled([PreparedImage(each, "") for each in pixels])).float().cpu()
        scale = max(1.0, float(expected.abs().max()))
        score = float((torch.from_numpy(logits) - expected).abs().max()) / scale
        share = float((torch.from_numpy(probabilities) - expected.softmax(-1)).abs().max())
        if not max(score, share) <= TOLERANCE:
            raise ConfigError(
                f"method '{method}' has no ONNX graph: it would differ from promptfed's own prediction by "
                f"{max(score, share):.1e} (at most {TOLERANCE:.0e}), as its prompt depends on the image or on the batch"
            )
        largest = max(largest, share)
    return largest


def _noise(batch: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(batch, *shape, generator=torch_stream(0, "onnx", batch))
