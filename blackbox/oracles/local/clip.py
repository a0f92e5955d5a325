"""The oracle `clip:BACKBONE`: a white-box vision-language model used only through its scores, for images.

Scores are the model's logits: cosines of image and class text, times its scale. A soft prompt stands as context vectors
before the class words ("<prompt> dog."), a text prompt as words there (or around the class, where it holds ``{}``), a
pixel prompt is added to the preprocessed image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones import load_backbone
from promptfed.backbones.base import JOINT_ROWS, Backbone, ClassTokens, PromptedText
from promptfed.backbones.features import IMAGE_BATCH, FeatureStore, default_cache
from promptfed.blackbox.oracles.base import LocalBackend, SoftSpace
from promptfed.blackbox.oracles.budget import Budget
from promptfed.blackbox.oracles.query import Candidate, OracleAbility, OracleAnswer, Query, ScoreQuery
from promptfed.examples.base import Item
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate
from promptfed.types import Split

KEPT_ROWS = 50_000
"""Text features that are kept, so that a prompt's class texts are encoded once: 100 MB at 512 dimensions."""
COMMON = (
    "a an the of in on at by with for from to and or one two some many this that its photo picture image drawing "
    "sketch painting icon symbol sign shape view close far small large big little old new good bad clean dark bright "
    "light black white red green blue yellow color simple plain real natural person animal plant food tool machine "
    "vehicle building thing object kind type scene outdoor indoor texture pattern line round square"
)
"""Words whose embeddings soft prompts may start from; backbones do not show their whole table."""

Key = tuple[str, tuple[str, ...]]


class Clip(LocalBackend):
    """``backbone`` as a black box. Image features of images without a pixel prompt come from ``features``, once."""

    abilities: frozenset[OracleAbility] = frozenset({"soft prompts", "text prompts", "pixel prompts"})

    def __init__(self, form: PromptTemplate, backbone: Backbone, features: FeatureStore | None = None) -> None:
        self.form, self.backbone, self.name = form, backbone, f"clip:{backbone.name}"
        self.features = FeatureStore(backbone) if features is None else features
        blank = backbone.preprocess(Image.new("RGB", (64, 64), "white"))
        self.pixel_shape = (blank.shape[0], blank.shape[1], blank.shape[2])
        words = backbone.embed_words(COMMON).float().cpu()
        self.soft = SoftSpace(backbone.text_dim, words.std().item(), words)
        self._texts: dict[Key, Tensor] = {}
        self._tokens: dict[tuple[tuple[str, ...], int], ClassTokens] = {}
        self._ahead: list[ScoreQuery] = []
        described = json.dumps(["clip", backbone.fingerprint, form.model_dump()], sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    def pixels(self, items: Sequence[Item]) -> Tensor:
        return self.features.pixels(_split_of(items)).cpu()

    def leave_no_features(self) -> None:
        self.features = FeatureStore(self.backbone, default_cache(read_only=True))

    def verify_frozen(self) -> None:
        self.backbone.verify_frozen()

    def answer(self, queries: Sequence[Query], budget: Budget) -> Generator[tuple[int, OracleAnswer], None, None]:
        self._ahead = [query for query in queries if isinstance(query, ScoreQuery)]
        yield from super().answer(queries, budget)

    def scores(self, queries: Sequence[ScoreQuery]) -> Tensor:
        texts = torch.stack([self._class_features(query) for query in queries])
        images = F.normalize(self._image_features(queries), dim=-1)
        return self.backbone.logit_scale * torch.einsum("nd,ncd->nc", images, texts)

    # ------------------------------------------------------------------------------------------------- images

    def _image_features(self, queries: Sequence[ScoreQuery]) -> Tensor:
        """Return image features ``(queries, embed_dim)``."""
        plain = [k for k, query in enumerate(queries) if query.prompt.pixels is None]
        edited = [k for k, query in enumerate(queries) if query.prompt.pixels is not None]
        result = torch.empty(len(queries), self.backbone.embed_dim, device=self.backbone.device)
        if plain:
            distinct = {id(queries[k].item): queries[k].item for k in plain}
            features = self.features.images(_split_of(list(distinct.values())))
            row = {name: number for number, name in enumerate(distinct)}
            result[plain] = features[[row[id(queries[k].item)] for k in plain]]
        for start in range(0, len(edited), IMAGE_BATCH):
            rows = edited[start : start + IMAGE_BATCH]
            padded = rows + rows[-1:] * (IMAGE_BATCH - len(rows))
            pixels = self.features.pixels(_split_of([queries[k].item for k in padded]))
            patterns = torch.stack([queries[k].prompt.pixels for k in padded]).to(pixels)  # type: ignore[misc]
            result[rows] = self.backbone.encode_images(pixels + patterns)[: len(rows)]
        return result

    # -------------------------------------------------------------------------------------------------- texts

    def _class_features(self, query: ScoreQuery) -> Tensor:
        """Return unit text features ``(classes, embed_dim)`` under the query's prompt."""
        key = _key(query)
        if key not in self._texts:
            self._encode_with(query)
        return self._texts[key]

    def _encode_with(self, first: ScoreQuery) -> None:
        """Encode the texts of ``first``'s prompt, and those of as many coming prompts as fit into the same pass."""
        limit = max(1, JOINT_ROWS // len(first.classes))
        by_key = {_key(first): first}
        for query in self._ahead:
            if len(by_key) >= limit:
                break
            if query.classes == first.classes and _key(query) not in self._texts:
                by_key.setdefault(_key(query), query)
        while self._texts and (len(self._texts) + len(by_key)) * len(first.classes) > KEPT_ROWS:
            del self._texts[next(iter(self._texts))]
        soft = [key for key, query in by_key.items() if query.prompt.soft is not None]
        plain = [key for key, query in by_key.items() if query.prompt.soft is None]
        if soft:
            texts = [self._prompted(by_key[key].prompt, first.classes) for key in soft]
            self._keep(soft, self.backbone.encode_prompted_texts(texts))
        if plain:
            sentences = [sentence for key in plain for sentence in self._sentences(by_key[key].prompt, first.classes)]
            self._keep(plain, list(self.backbone.encode_text(sentences).split(len(first.classes))))

    def _keep(self, keys: Sequence[Key], features: Sequence[Tensor]) -> None:
        self._texts.update(zip(keys, (F.normalize(part.float(), dim=-1) for part in features), strict=True))

    def _prompted(self, prompt: Candidate, classes: tuple[str, ...]) -> PromptedText:
        assert prompt.soft is not None
        names = tuple(f"{prompt.text} {self.form.word(name)}".strip() for name in classes)
        key = (names, len(prompt.soft))
        if key not in self._tokens:
            self._tokens[key] = self.backbone.class_tokens(names, len(prompt.soft))
        return PromptedText(prompt.soft.to(self.backbone.device), self._tokens[key])

    def _sentences(self, prompt: Candidate, classes: tuple[str, ...]) -> list[str]:
        words = [self.form.word(name).replace("_", " ") for name in classes]
        if "{}" in prompt.text:
            return [prompt.text.replace("{}", word) for word in words]
        return [f"{prompt.text} {word}.".strip() for word in words]


def _key(query: ScoreQuery) -> Key:
    """Return a key of the texts that a query needs; pixels do not change them."""
    described = {name: value for name, value in query.described.items() if name != "pixels"}
    return json.dumps(described, sort_keys=True), query.classes


def _split_of(items: Sequence[object]) -> Split:
    return Split(tuple(items), torch.zeros(len(items), dtype=torch.int64))  # type: ignore[arg-type]


def load(form: PromptTemplate, rest: str, options: OracleOptions, device: str, precision: str) -> Clip:
    """Load the oracle.

    Raises:
        ConfigError: There is no such backbone.
        BackboneError: Its weights are not available.
    """
    backend = Clip(form, load_backbone(rest, device=device, precision=precision))
    backend.rows = options.rows
    return backend
