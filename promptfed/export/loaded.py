"""A bundle joined with its model again, whichever kind of model it was made for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptfed.backbones import load_backbone
from promptfed.backbones.features import FeatureStore
from promptfed.backbones.objects import backbone_of
from promptfed.blackbox.oracles.local.function import ScoreFunction
from promptfed.errors import ConfigError
from promptfed.export.blackbox_bundle import load_bundles_oracle, read_blackbox_bundle
from promptfed.export.blackbox_predict import BlackBoxPredictor
from promptfed.export.bundle import check_named_backbone, is_for_black_box, read_bundle
from promptfed.export.predict import Prediction, Predictor
from promptfed.method import METHODS
from promptfed.printable import printable
from promptfed.prompt_state import PromptState

EXAMPLE_KINDS = {"texts": "text", "questions": "question"}
"""Of a bundle -> what one example is called; an image is called by its path."""


class LoadedBundle:
    """A bundle that is ready to predict. Get one by ``load_bundle`` (or ``promptfed.load``).

    Attributes:
        path: The bundle's folder.
        classes: The class names that it was trained on.
        example_kind: What one example is: "path" (of an image), "text" or "question".
    """

    def __init__(self, path: Path, predictor: Predictor | BlackBoxPredictor) -> None:
        self.path, self._predictor = path, predictor
        self.classes: tuple[str, ...] = predictor.bundle.meta.classes
        kind = getattr(predictor.bundle.meta, "examples", "images")
        self.example_kind = EXAMPLE_KINDS.get(kind, "path")

    @property
    def shared(self) -> PromptState:
        """The prompt that all clients of its run share."""
        return self._predictor.bundle.shared

    def __repr__(self) -> str:
        meta = self._predictor.bundle.meta
        return f"<bundle {str(self.path)!r}: {meta.method}, {len(self.classes)} classes>"

    def predict(
        self, examples: Sequence[str | os.PathLike[str]], classes: Sequence[str] | None = None, top: int = 3
    ) -> list[Prediction]:
        """Return the ``top`` most probable classes of each example.

        Args:
            examples: Paths of images, or texts, as ``example_kind`` says.
            classes: Class names to choose among, also such as were never trained on; None: those of the bundle.
            top: How many classes to name.

        Raises:
            DataError: An image is missing or cannot be decoded.
            ConfigError: Fewer than two classes, one given twice, or ``top`` below 1.
        """
        if isinstance(examples, (str, os.PathLike)):
            raise ConfigError(f"examples must be a list, not {type(examples).__name__}: give [{examples!r}]")
        if isinstance(self._predictor, Predictor):
            return self._predictor.predict([Path(example) for example in examples], classes, top)
        return self._predictor.predict([os.fspath(example) for example in examples], classes, top)

    def close(self) -> None:
        """Close the connection to a black box; a loaded backbone needs no closing."""
        if isinstance(self._predictor, BlackBoxPredictor):
            self._predictor.oracle.close()

    def __enter__(self) -> LoadedBundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_bundle(
    path: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    model: Any = None,
    oracle: str | ScoreFunction | None = None,
    device: str = "cpu",
    keep_features: bool = False,
    trust_address: bool = False,
    **changed: Any,
) -> LoadedBundle:
    """Read the bundle in ``path`` and load the model that it was made for.

    Args:
        path: The bundle's folder.
        backbone: Load this backbone instead of the one named in the bundle.
        model: The model as an object: a ``Backbone``, or (open_clip model, tokenizer, transform).
        oracle: The same black box under another name, such as ``local:OTHER-PATH``, or the function that it was.
        device: "cpu", "cuda" or "auto".
        keep_features: Keep features of the images in the cache.
        trust_address: Use the server that the bundle names.
        changed: Options of the oracle: base_url, api_key_env, max_calls, max_usd, embeddings.

    Raises:
        BundleError: The bundle is damaged, or was made for another model.
        ConfigError: An option does not go with it, or it names what only the user can name.
    """
    folder = Path(path)
    changed = {name: value for name, value in changed.items() if value is not None}
    if is_for_black_box(folder):
        if backbone is not None or model is not None:
            raise ConfigError("--backbone does not go with a bundle for a black box; use --oracle")
        sealed = read_blackbox_bundle(folder)
        _check_method(sealed.meta.method, folder)
        asked = load_bundles_oracle(sealed, oracle, device, trust_address=trust_address, **changed)
        if not keep_features:
            asked.backend.leave_no_features()
        return LoadedBundle(folder, BlackBoxPredictor(sealed, asked))
    if oracle is not None or changed:
        raise ConfigError("this bundle is for a backbone, not for a black box; leave out the options of an oracle")
    bundle = read_bundle(folder)
    _check_method(bundle.meta.method, folder)
    made_with = bundle.meta.backbone
    if isinstance(model, str):
        backbone, model = model, None
    if model is None:
        check_named_backbone(bundle, backbone)
        found = load_backbone(backbone or made_with.name, device=device, precision=made_with.precision)
    else:
        found = backbone_of(model, device)
    return LoadedBundle(folder, Predictor(bundle, found, FeatureStore(found) if keep_features else None))


def _check_method(method: str, folder: Path) -> None:
    """Raise ConfigError for a method that nobody here has: it may be a plug-in's, which the user has to name."""
    if method not in METHODS:
        raise ConfigError(
            f"bundle '{printable(folder)}' was made with method '{printable(method)}', which is not installed: "
            "name the plug-in that has it by --plugin"
        )
