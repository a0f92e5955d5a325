"""A backbone behind an oracle: its own logits, text towers asked once a prompt, images encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.backbones.tiny import load_tiny
from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.local.clip import Clip
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate, TextQuery
from promptfed.errors import BackboneError, ConfigError, DataError, OracleError
from promptfed.examples.base import ImageItem, TextItem
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate

CLASSES = ("bell", "paper_plane", "key")


@dataclass(frozen=True)
class Blot(ImageItem):
    seed: int

    @property
    def name(self) -> str:
        return f"blot {self.seed}"

    def content_id(self) -> str:
        return f"{self.seed:064x}"

    def load(self) -> Image.Image:
        values = np.random.default_rng(self.seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        return Image.fromarray(values).resize((48, 48), Image.Resampling.BICUBIC)


ITEMS = [Blot(k) for k in range(5)]


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    backbone = load_tiny()
    return Clip(PromptTemplate(words={"key": "door key"}), backbone, FeatureStore(backbone, FeatureCache(tmp_path, 0)))


def expected(clip: Clip, sentences: list[str], pixels: torch.Tensor | None = None) -> torch.Tensor:
    seen = torch.stack([clip.backbone.preprocess(item.load()) for item in ITEMS])
    if pixels is not None:
        seen = seen + pixels
    images = F.normalize(clip.backbone.encode_images(seen), dim=-1)
    texts = F.normalize(clip.backbone.encode_text(sentences), dim=-1)
    return clip.backbone.logit_scale * images @ texts.T


def test_text_prompts_are_sentences_and_templates(clip):
    prompts = [Candidate("an icon of a"), Candidate(), Candidate("a {} seen from afar")]
    found = Oracle(clip).score(prompts, ITEMS, CLASSES)
    sentences = (
        ["an icon of a bell.", "an icon of a paper plane.", "an icon of a door key."],
        ["bell.", "paper plane.", "door key."],
        ["a bell seen from afar", "a paper plane seen from afar", "a door key seen from afar"],
    )
    torch.testing.assert_close(found, torch.stack([expected(clip, some) for some in sentences]), atol=1e-3, rtol=0)
    assert found[0].std() > 0.1


def test_a_soft_prompt_of_word_embeddings_is_the_text_prompt(clip):
    soft = Candidate(soft=clip.backbone.embed_words("an icon of a"))
    text, vectors = Oracle(clip).score([Candidate("an icon of a"), soft], ITEMS, CLASSES)
    torch.testing.assert_close(vectors, text, atol=1e-3, rtol=0)


def test_pixel_prompts_shared_and_for_each_example(clip):
    shared = torch.linspace(-1, 1, 3 * 48 * 48).reshape(clip.pixel_shape)
    each = torch.stack([shared * k for k in range(len(ITEMS))])
    found = Oracle(clip).score([Candidate("a", pixels=shared), Candidate("a", pixels=each)], ITEMS, CLASSES)
    sentences = ["a bell.", "a paper plane.", "a door key."]
    torch.testing.assert_close(found[0], expected(clip, sentences, shared), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1], expected(clip, sentences, each), atol=1e-3, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_soft_and_pixel_prompts_together(clip):
    soft, pixels = clip.backbone.embed_words("an icon of a"), torch.ones(clip.pixel_shape)
    found = Oracle(clip).score([Candidate(soft=soft, pixels=pixels)], ITEMS, CLASSES)[0]
    sentences = ["an icon of a bell.", "an icon of a paper plane.", "an icon of a door key."]
    torch.testing.assert_close(found, expected(clip, sentences, pixels), atol=1e-3, rtol=0)


def test_towers_are_asked_once_for_each_prompt_and_image(clip):
    oracle = Oracle(clip)
    population = [Candidate(soft=torch.randn(4, clip.soft.dim) * clip.soft.std) for _ in range(6)]
    before = clip.backbone.calls.texts, clip.backbone.calls.images
    oracle.score(population, ITEMS, CLASSES)
    oracle.score(population[:3], [Blot(9)], CLASSES)
    assert clip.backbone.calls.texts - before[0] == 6 * len(CLASSES)
    assert clip.backbone.calls.images - before[1] == len(ITEMS) + 1
    assert oracle.usage().oracle_calls == 6 * len(ITEMS) + 3


def test_a_population_goes_through_the_text_tower_together(clip, monkeypatch):
    passes = []
    encode = clip.backbone._encode_jointly
    monkeypatch.setattr(clip.backbone, "_encode_jointly", lambda batch: passes.append(1) or encode(batch))
    population = [Candidate(soft=torch.full((4, clip.soft.dim), 0.01 * k)) for k in range(20)]
    together = Oracle(clip).score(population, ITEMS, CLASSES)
    assert len(passes) == 1
    clip._texts.clear()
    alone = torch.cat([Oracle(clip).score([one], ITEMS, CLASSES) for one in population])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=0)


def test_soft_space_has_the_scale_of_word_embeddings(clip):
    words = clip.backbone.embed_words("a photo of the small animal")
    assert clip.soft.dim == clip.backbone.text_dim == clip.soft.words.shape[1]
    assert 0.5 < clip.soft.std / words.std().item() < 2


def test_loaded_by_name_it_is_guarded_like_any_oracle(clip):
    oracle = load_oracle("clip:tiny", PromptTemplate(), OracleOptions(rows=16, cache=False))
    assert oracle.name == "clip:tiny"
    assert oracle.fingerprint != clip.fingerprint, "the form is part of it"
    with pytest.raises(DataError, match="not an image"):
        oracle.score([Candidate()], [TextItem("words")], CLASSES)
    with pytest.raises(OracleError, match="only scores"):
        oracle.ask([TextQuery("go on", 3)])
    with pytest.raises(ConfigError, match="generation"):
        oracle.generate(["go on"], max_tokens=3)
    with pytest.raises(ConfigError, match="backbone"):
        load_oracle("clip:nothing", PromptTemplate(), OracleOptions())


def test_a_changed_weight_is_noticed(clip):
    clip.verify_frozen()
    next(clip.backbone._model.parameters()).data.view(-1)[0] += 1
    with pytest.raises(BackboneError, match="changed"):
        clip.verify_frozen()


@pytest.mark.parametrize(("keeps", "files"), [(True, 1), (False, 0)])
def test_features_of_predicted_images_stay_off_the_disk(tmp_path, monkeypatch, keeps, files):
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path))
    clip = Clip(PromptTemplate(), load_tiny())
    if not keeps:
        clip.leave_no_features()
    oracle = Oracle(clip)
    oracle.score([Candidate("a photo of a")], ITEMS, CLASSES)
    assert len(list(tmp_path.rglob("images/*.safetensors"))) == files
