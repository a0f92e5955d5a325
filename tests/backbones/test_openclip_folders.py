"""open_clip models from folders with their config, and from the hub; the tokenizers that they name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from promptfed.backbones import load_backbone
from promptfed.backbones.openclip_loading import folder_of
from promptfed.backbones.text_tower_cache import load_text_tower
from promptfed.errors import BackboneError

from .shrunk_models import BIOMED, VISION, write_encoders, write_folder, write_tokenizers

SIGLIP: dict[str, Any] = {
    "embed_dim": 32,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": VISION,
    "text_cfg": {
        "context_length": 24, "vocab_size": 400, "width": 64, "heads": 2, "layers": 2, "no_causal_mask": True,
        "pool_type": "last", "proj_bias": True, "hf_tokenizer_name": "timm/none",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}  # fmt: skip
CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": VISION,
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
TEXTS = ["A photo of a cat.", "grey owl"]
WriteModel = Callable[..., Path]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> WriteModel:
    """``write(folder, config, tokenizer)``: a model of open_clip in ``folder`` with that kind of tokenizer, or none."""
    home = tmp_path_factory.mktemp("parts")
    tokenizers, encoders = write_tokenizers(home), write_encoders(home, 400)

    def make(folder: Path, config: dict[str, Any], tokenizer: str | None = None, **changes: Any) -> Path:
        config = json.loads(json.dumps(config))
        config["text_cfg"] |= changes
        if "hf_model_name" in config["text_cfg"]:
            shutil.copytree(encoders[config["text_cfg"]["hf_model_name"]], folder / "encoder", dirs_exist_ok=True)
            config["text_cfg"]["hf_model_name"] = str(folder / "encoder")
        if tokenizer is not None:
            shutil.copytree(tokenizers[tokenizer], folder, dirs_exist_ok=True)
        return write_folder(folder, config)

    return make


@pytest.mark.parametrize(("config", "tokenizer"), [(SIGLIP, "siglip"), (CLIP, None), (BIOMED, "bert")])
def test_a_folder_is_what_open_clip_makes_of_it(
    write: WriteModel, tmp_path: Path, config: dict[str, Any], tokenizer: str | None
) -> None:
    folder = write(tmp_path / "model", config, tokenizer)
    backbone = load_backbone(f"open_clip:local-dir:{folder}")
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with torch.no_grad():
        expected = model.eval().encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS))
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected, atol=1e-5, rtol=0)
    assert backbone._model.visual.preprocess_cfg["mean"] == (0.5, 0.5, 0.5)
    assert backbone.context_length == config["text_cfg"].get("context_length", 77)
    for precision in ("bfloat16", "float16"):
        narrow = load_backbone(f"open_clip:local-dir:{folder}", precision=precision)
        ctx = narrow.embed_words("a photo of a").clone().requires_grad_()
        features = narrow.encode_prompted_text(ctx, narrow.class_tokens(["cat"], len(ctx)))
        assert torch.cosine_similarity(features, expected[:1]).item() > 0.999
        assert torch.autograd.grad(features.sum(), ctx)[0].isfinite().all()
        pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert torch.cosine_similarity(narrow.encode_images(pixels), backbone.encode_images(pixels)).min() > 0.999


def test_an_encoder_may_lie_in_the_folder(write: WriteModel, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", BIOMED, "bert")
    absolute = load_backbone(f"open_clip:local-dir:{folder}")
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace(str(folder / "encoder"), "encoder"))
    assert load_backbone(f"open_clip:local-dir:{folder}").fingerprint == absolute.fingerprint
    shutil.rmtree(folder / "encoder")
    with pytest.raises(BackboneError, match=r"config of its text tower 'encoder'.*hf download encoder config\.json"):
        load_backbone(f"open_clip:local-dir:{folder}")


def test_wrapped_weights_and_options(write: WriteModel, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", CLIP)
    plain = load_backbone(f"open_clip:local-dir:{folder}")
    state = {f"module.{name}": tensor for name, tensor in plain._model.state_dict().items()}
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"epoch": 3, "state_dict": state}, folder / "open_clip_pytorch_model.bin")
    assert load_backbone(f"open_clip:local-dir:{folder}").fingerprint == plain.fingerprint
    quick = load_backbone(f"open_clip:local-dir:{folder}?activation=quick_gelu&std=0.25")
    assert quick.fingerprint != plain.fingerprint
    assert quick.library_options == {
        "image_mean": (0.5, 0.5, 0.5), "image_std": (0.25, 0.25, 0.25), "image_resize_mode": "squash",
        "force_quick_gelu": True,
    }  # fmt: skip
    assert folder_of(f"open_clip:local-dir:{folder}?std=0.25") == folder


def test_the_cached_text_tower_follows_the_folder(write: WriteModel, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    name = f"open_clip:local-dir:{write(tmp_path / 'model', CLIP)}"
    first, again = load_text_tower(name), load_text_tower(name)
    assert type(again).__name__ == "RememberedBackbone"
    assert torch.equal(again.encode_text(TEXTS), first.encode_text(TEXTS))
    write(tmp_path / "model", CLIP, width=128)
    assert load_text_tower(name).text_dim == 128
    whole = f"open_clip:local-dir:{write(tmp_path / 'other', SIGLIP, 'siglip')}"
    towers = [load_text_tower(whole), load_text_tower(whole)]
    assert {type(tower).__name__ for tower in towers} == {"OpenClipBackbone"}, "only causal towers are cached"


def test_tokenizers_that_are_not_here(write: WriteModel, tmp_path: Path) -> None:
    folder, other = write(tmp_path / "model", SIGLIP), write(tmp_path / "other", SIGLIP, "siglip")
    with pytest.raises(BackboneError, match=r"tokenizer 'timm/none' of the Hugging Face hub.*hf download timm/none"):
        load_backbone(f"open_clip:local-dir:{folder}")
    backbone = load_backbone(f"open_clip:local-dir:{folder}?tokenizer={other}")
    same = load_backbone(f"open_clip:local-dir:{other}")
    assert backbone._sentences.encode("a photo") == same._sentences.encode("a photo") != []
    with pytest.raises(BackboneError, match="does not load as a tokenizer of transformers"):
        load_backbone(f"open_clip:local-dir:{folder}?tokenizer={tmp_path}")
    with pytest.raises(BackboneError, match=r"behind a tag may stand \?tokenizer=FOLDER only"):
        load_backbone("open_clip:ViT-B-16/openai?mean=0.5")


def test_the_hub(write: WriteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "snapshot", SIGLIP, "siglip", hf_tokenizer_name="org/model")
    with pytest.raises(BackboneError, match=r"not in the hub's cache.*hf download org/model --local-dir FOLDER"):
        load_backbone("open_clip:hf-hub:org/model")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repository, **_: str(folder))
    found = load_backbone("open_clip:hf-hub:org/model")
    assert torch.equal(found.encode_text(TEXTS), load_backbone(f"open_clip:local-dir:{folder}").encode_text(TEXTS))
    for name in ("model", "", "a/b/c", "/model"):
        with pytest.raises(BackboneError, match="names no repository of the hub"):
            load_backbone(f"open_clip:hf-hub:{name}")


def test_a_folder_that_is_none_says_so(write: WriteModel, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", CLIP)
    with pytest.raises(BackboneError, match="there is no folder"):
        load_backbone(f"open_clip:local-dir:{tmp_path}/none")
    with pytest.raises(BackboneError, match=r"holds no open_clip_config\.json"):
        load_backbone(f"open_clip:local-dir:{tmp_path}")
    path = folder / "open_clip_config.json"
    for content, why in (
        ("{", "is not usable JSON"),
        ("[]", "has no model_cfg"),
        (json.dumps({"model_cfg": {**CLIP, "magic": 1}}), "magic"),
        (json.dumps({"model_cfg": {**CLIP, "embed_dim": 16}}), "is \\(64, 32\\), not"),
        (json.dumps({"model_cfg": {**CLIP, "text_cfg": {**CLIP["text_cfg"], "pool_type": "none"}}}), "not read at one"),
        (json.dumps({"model_cfg": {**CLIP, "multimodal_cfg": {}}}), "appends a class token"),
        (json.dumps({"model_cfg": {**CLIP, "text_cfg": {**CLIP["text_cfg"], "hf_tokenizer_name": 5}}}), "is no name"),
    ):
        path.write_text(content)
        with pytest.raises(BackboneError, match=why) as caught:
            load_backbone(f"open_clip:local-dir:{folder}")
        assert "\n" not in str(caught.value)


def test_code_that_a_folder_names_is_never_run(write: WriteModel, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    folder = write(tmp_path / "model", BIOMED, "bert")
    for place, file in ((folder, "tokenizer_config.json"), (folder / "encoder", "config.json")):
        kept = (place / file).read_text()
        (place / "evil.py").write_text(code)
        names = {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.Words", "evil.Words"]}
        forged = {**json.loads(kept), "auto_map": names, "model_type": "evil", "tokenizer_class": "Evil"}
        (place / file).write_text(json.dumps(forged))
        with pytest.raises(BackboneError):
            load_backbone(f"open_clip:local-dir:{folder}")
        (place / file).write_text(kept)
    write(folder, SIGLIP, "siglip", tokenizer_kwargs={"trust_remote_code": True})
    with pytest.raises(BackboneError, match="the option trust_remote_code; only clean, language, strip_sep_token"):
        load_backbone(f"open_clip:local-dir:{folder}")
    assert not mark.exists()


def test_models_that_are_given_with_their_tokenizer(write: WriteModel, tmp_path: Path) -> None:
    from promptfed.backbones.objects import backbone_of

    folder = write(tmp_path / "model", SIGLIP, "siglip")
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    by_name = load_backbone(f"open_clip:local-dir:{folder}")
    for parts in ((model, tokenizer), (transform, tokenizer, model)):
        assert backbone_of(parts).fingerprint == by_name.fingerprint
    bare = backbone_of((model, tokenizer.tokenizer))
    assert torch.equal(bare.encode_text(["a cat"]), by_name.encode_text(["a cat"]))
