"""The frozen model of white-box methods: a backbone and the features that it made."""

from __future__ import annotations

import pytest
import torch

from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.errors import ConfigError
from promptfed.setup import Setup
from promptfed.types import Split


@pytest.fixture
def model(setup: Setup) -> DualEncoder:
    assert isinstance(setup.model, DualEncoder)
    return setup.model


def test_scores_of_a_template_are_scaled_cosines(model: DualEncoder, make_split) -> None:
    split: Split = make_split(3, [0, 1, 2, 0])
    scores = model.template_scores("a {}", split, ["red_dot", "sky"])
    images = torch.stack([model.backbone.preprocess(item.load()) for item in split.items])
    pictures = model.backbone.encode_images(images)
    texts = model.backbone.encode_text(["a red dot", "a sky"])
    for row in range(4):
        for column in range(2):
            cosine = pictures[row] @ texts[column] / (pictures[row].norm() * texts[column].norm())
            assert scores[row, column].item() == pytest.approx(model.backbone.logit_scale * cosine.item(), abs=1e-5)


def test_what_is_prepared_is_not_encoded_again(model: DualEncoder, make_split) -> None:
    split = make_split(4, [0, 1, 1])
    seen: list[tuple[int, int]] = []
    model.prepare(list(split.items), lambda done, total: seen.append((done, total)))
    encoded = model.usage().image_encoder_calls
    assert encoded == 3
    assert seen[-1] == (3, 3)
    model.template_scores("a {}", split, ["a", "b"])
    assert model.usage().image_encoder_calls == encoded


def test_a_missing_ability_names_models_that_would_do(model: DualEncoder) -> None:
    model.check_offers([], "method 'promptfl'")
    with pytest.raises(ConfigError, match=r"method .maple. needs a backbone with visual prompts.*use --backbone tiny"):
        model.check_offers({"visual prompts"}, "method 'maple'")


def test_it_is_known_again_by_its_fingerprint(model: DualEncoder) -> None:
    assert model.describe() == {"backbone": {"name": model.backbone.name, "fingerprint": model.backbone.fingerprint}}
    assert not model.is_paid
