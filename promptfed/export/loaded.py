"""A bundle joined with its model again, whichever kind of model it was made for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from promptfed.backbones import load_backbone
from promptfed.backbones.base import Backbone
from promptfed.backbones.device import pick_device
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureStore, default_cache
from promptfed.backbones.objects import backbone_of
from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.local.function import ScoreFunction
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.config import validate
from promptfed.errors import ConfigError
from promptfed.export.bundle import ABOUT_THE_MODEL, Bundle, check_model, read_bundle
from promptfed.export.folder import BackboneMeta, OracleMeta
from promptfed.export.hub import hub_place, is_hub, pulled_folder
from promptfed.export.predict import Prediction, Predictor
from promptfed.files.paths import checked_path
from promptfed.language_models.loading import load_language_model
from promptfed.language_models.model import LanguageModel
from promptfed.language_models.names import PREFIX as LM_PREFIX
from promptfed.language_models.objects import language_model_of
from promptfed.method import METHODS
from promptfed.objects import function_oracle
from promptfed.oracle_options import OracleOptions
from promptfed.printable import LONGEST, printable
from promptfed.prompt_state import PromptState
from promptfed.python_words import Words, said_in
from promptfed.tasks.sources.object_images import is_image, kind_of
from promptfed.trust import admitted, is_local_file

COPIES = {"open_clip": "open_clip:MODEL/FILE or open_clip:local-dir:FOLDER", "clip-hf": "clip-hf:FOLDER"}
"""Kinds of backbones that may lie in a file -> how the user names a copy."""
EXAMPLE_KINDS = {"images": "path", "texts": "text", "questions": "question"}
"""Of a bundle -> what one example is called; an image is called by its path."""


class LoadedBundle:
    """A bundle that is ready to predict. Get one by ``load_bundle`` (or ``promptfed.load``).

    Attributes:
        path: The bundle's folder.
        classes: The class names that it was trained on.
        example_kind: What one example is: "path" (of an image), "text" or "question".
    """

    def __init__(self, path: Path, predictor: Predictor) -> None:
        self.path, self._predictor = path, predictor
        self.words: Words = str
        """Puts errors into the words of the caller: those of the command line as they are, ``in_python`` for Python."""
        self.classes: tuple[str, ...] = predictor.bundle.meta.classes
        self.example_kind = EXAMPLE_KINDS[predictor.bundle.meta.examples]

    @property
    def predictor(self) -> Predictor:
        """The bundle with its model, as one object."""
        return self._predictor

    @property
    def shared(self) -> PromptState:
        """The prompt that all clients of its run share."""
        return self._predictor.bundle.shared

    def __repr__(self) -> str:
        meta = self._predictor.bundle.meta
        return f"<bundle {str(self.path)!r}: {meta.method}, {len(self.classes)} classes>"

    def predict(
        self,
        examples: Iterable[Any],
        classes: Sequence[str] | None = None,
        top: int = 3,
        threshold: float | None = None,
    ) -> list[Prediction]:
        """Return the ``top`` most probable classes of each example.

        Args:
            examples: Images, or texts, as ``example_kind`` says. An image is a path, a PIL image, or an array as
                ``promptfed.train(data=...)`` takes it.
            classes: Class names to choose among, also such as were never trained on; None: those of the bundle.
            top: How many classes to name.
            threshold: The least probability of the best class; below it ``is_none`` of the prediction is true.

        Raises:
            DataError: An image is missing or cannot be decoded, or an example is of another kind.
            ConfigError: ``examples`` is no list; fewer than two classes, one given twice, ``top`` below 1, or
                ``threshold`` outside 0..1.
        """
        if isinstance(examples, str | os.PathLike):
            raise ConfigError(
                f"examples must be a list, not {type(examples).__name__}: give [{printable(repr(examples), LONGEST)}]"
            )
        if is_image(examples) or isinstance(examples, Mapping | bytes) or not isinstance(examples, Iterable):
            raise ConfigError(
                f"examples must be a list, and this is {kind_of(examples)}: give [one], or list(...) of several"
            )
        with said_in(self.words):
            return self._predictor.predict(examples, classes, top, threshold)

    def close(self) -> None:
        """Close the connection to a black box; a loaded backbone needs no closing."""
        self._predictor.model.close()

    def __enter__(self) -> LoadedBundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bundle_place(path: str | os.PathLike[str]) -> Path:
    """Return the folder that ``path`` names; of hf:USER/NAME the one in the cache, fetched if need be.

    Raises:
        ConfigError: It is no path, or no name of a repository.
        BundleError: The hub cannot be asked, or the repository holds no bundle.
    """
    return pulled_folder(hub_place(str(path))) if is_hub(path) else checked_path(path, "path")


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
        path: The bundle's folder, or hf:USER/NAME, a repository of the hub, which is fetched into the cache.
        backbone: Load this backbone instead of the one named in the bundle.
        model: The model as an object: a ``Backbone``, or (open_clip model, tokenizer, transform); a ``LanguageModel``,
            or (model of transformers, tokenizer).
        oracle: The same black box under another name, such as ``local:OTHER-PATH``, or the function that it was.
        device: "cpu", "cuda", "cuda:1" or "auto".
        keep_features: Keep features of the images in the cache on disk.
        trust_address: Use the server that the bundle names.
        changed: Options of the oracle: base_url, api_key_env, max_calls, max_usd, embeddings.

    Raises:
        BundleError: The bundle is damaged, or was made for another model.
        ConfigError: An option does not go with it, it names what only the user can name, or ``path`` is no path.
    """
    folder = bundle_place(path)
    bundle = read_bundle(folder)
    if bundle.meta.method not in METHODS:  # it may be a plug-in's, which the user has to name
        raise ConfigError(
            f"bundle '{printable(folder)}' was made with method '{printable(bundle.meta.method)}', which is not "
            "installed: name the plug-in that has it by --plugin"
        )
    changed = {name: value for name, value in changed.items() if value is not None}
    if bundle.meta.backbone is not None:
        if oracle is not None or changed:
            raise ConfigError("this bundle is for a backbone, not for a black box; leave out the options of an oracle")
        features = None if keep_features else default_cache(read_only=True)
        towers = _load_backbone(bundle.meta.backbone, backbone if model is None else model, device)
        return LoadedBundle(folder, Predictor(bundle, DualEncoder(FeatureStore(towers, features))))
    if bundle.meta.language_model is not None:
        if oracle is not None or changed:
            raise ConfigError("this bundle is for a language model: leave out the options of an oracle")
        reader = _load_language_model(bundle, backbone if model is None else model, device)
        return LoadedBundle(folder, Predictor(bundle, reader))
    if backbone is not None or model is not None:
        raise ConfigError("--backbone does not go with a bundle for a black box; use --oracle")
    black_box = load_bundle_oracle(bundle, oracle, device, trust_address=trust_address, **changed)
    if not keep_features:
        black_box.backend.leave_no_features()
    return LoadedBundle(folder, Predictor(bundle, black_box))


def _load_backbone(meta: BackboneMeta, model: Any, device: str) -> Backbone:
    """Load the backbone in ``meta``, or ``model``: another name of it, or an object.

    Raises ConfigError if ``meta`` names a file of the machine that it was made on: the user names the copy.
    """
    if model is not None and not isinstance(model, str):
        return backbone_of(model, device)
    kind = meta.name.partition(":")[0]
    if model is None and kind in COPIES and is_local_file(meta.name):
        raise ConfigError(
            f"the bundle was made for weights in a file ('{printable(meta.name, LONGEST)}'), which a bundle cannot "
            f"choose here: name your copy of it by --backbone {COPIES[kind]}"
        )
    return load_backbone(model or meta.name, device=device, precision=meta.precision)


def _load_language_model(bundle: Bundle, model: Any, device: str) -> LanguageModel:
    """Load the language model that ``bundle`` was made for, or ``model``: another name of it, or an object.

    Raises:
        ConfigError: It lies in a folder, which the user has to name.
    """
    meta, form = bundle.meta.language_model, bundle.meta.form
    assert meta is not None, "a bundle for a language model says which"
    assert form is not None, "and how its examples are put"
    if model is not None and not isinstance(model, str):
        return language_model_of(model, str(pick_device(device))).with_form(form)
    if model is None and is_local_file(meta.name.removeprefix(LM_PREFIX)):
        raise ConfigError(
            f"the bundle was made for a model in a folder ('{printable(meta.public_name, LONGEST)}'), which a bundle "
            "cannot choose here: name your copy of it by --backbone lm:FOLDER"
        )
    return load_language_model(model or meta.name, form, device=device, precision=meta.precision)


def load_bundle_oracle(
    bundle: Bundle,
    name: str | ScoreFunction | None = None,
    device: str = "cpu",
    *,
    trust_address: bool = False,
    **changed: Any,
) -> Oracle:
    """Load the oracle that ``bundle`` was made for.

    A bundle may be a stranger's: its address is used only if the user named it before or says ``trust_address``, a
    key's variable and files of this machine only if the user names them.

    Args:
        bundle: One for a black box.
        name: The same oracle under another name, or the function itself.
        device: "cpu", "cuda", "cuda:1" or "auto".
        trust_address: Use the server that the bundle names.
        changed: Other options of the oracle.

    Raises:
        BundleError: It is another oracle; both are named.
        ConfigError: The user has to name something.
    """
    meta, form = bundle.meta.oracle, bundle.meta.form
    assert meta is not None, "a bundle for a black box says which"
    assert form is not None, "and how its examples are put"
    told = {option: value for option, value in meta.options.items() if option in ABOUT_THE_MODEL}
    if name is not None and not isinstance(name, str):
        oracle = function_oracle(name, form, validate(OracleOptions, {**told, **changed}, "oracle option"))
    else:
        wanted = name or meta.name
        _check_files(meta, name, changed)
        if wanted in ("api", "embeds"):
            access = {option: changed.pop(option, None) for option in ("base_url", "api_key_env")}
            told = admitted(told, "the bundle", **access, trust_address=trust_address, strict=False)
        options = validate(OracleOptions, {**told, **changed}, "oracle option")
        oracle = load_oracle(wanted, form, options, device=device, precision=meta.precision)
    check_model(bundle, oracle)
    return oracle


def _check_files(meta: OracleMeta, name: str | None, changed: Mapping[str, Any]) -> None:
    """Raise ConfigError for files of this machine that the user has to name, and for some that do not go with it."""
    kind, _, file = meta.name.partition(":")
    if name is None and kind in ("local", "clip") and is_local_file(file):
        raise ConfigError(
            f"the bundle was made for a model in a file or folder ('{printable(file, LONGEST)}'), which a bundle "
            f"cannot choose here: name your copy of it by --oracle {kind}:PATH"
        )
    needs_embeddings, has_embeddings = (name or meta.name) == "embeds", bool(changed.get("embeddings"))
    if needs_embeddings and not has_embeddings:
        raise ConfigError(
            "the bundle's vectors go between token embeddings, which a bundle does not hold: name a folder of the "
            f"same model ('{printable(meta.options.get('model') or '', LONGEST)}') by --embeddings DIR"
        )
    if has_embeddings and not needs_embeddings:
        raise ConfigError(
            f"--embeddings goes with oracle embeds; this bundle is for '{printable(meta.name, LONGEST)}': leave it out"
        )
