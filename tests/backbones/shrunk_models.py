"""All architectures of the installed open_clip at width 64 and two layers, with tokenizers made on the spot.

A tokenizer of the hub is stood for by one with the same frame, padding and way to mark words, trained on a few lines.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "a photo of a cat.", "a photo of a grey owl.", "the grand piano of a king", "an icon of the owl at night",
    "cat owl piano photo of a the grey grand", "a drawing by hand of one steam engine", "a b c d e f g h i j k l m n",
    "o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9 . , ! ( ) _ -",
] * 20  # fmt: skip
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", "pad_token_id": 0},
    "roberta": {"model_type": "roberta", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "xlm-roberta": {"model_type": "xlm-roberta", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "mt5": {"model_type": "mt5", "pad_token_id": 0, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_heads": 2},
    "nllb": {
        "model_type": "m2m_100", "pad_token_id": 1, "encoder_layers": 2, "decoder_layers": 1, "scale_embedding": True,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
    },
}  # fmt: skip
"""Kind of encoder -> what its config has beside its size."""
SIZE = {
    "hidden_size": 64, "d_model": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
    "max_position_embeddings": 130, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
BIOMED = {
    "embed_dim": 32,
    "vision_cfg": VISION,
    "text_cfg": {
        "hf_model_name": "bert", "hf_tokenizer_name": "bert", "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 64,
    },
}  # fmt: skip
"""The shape of BiomedCLIP, which only the hub has."""


def kind_of_tokenizer(name: str) -> str:
    """Return which of ``TOKENIZERS`` stands for the hub's ``name``."""
    if "SigLIP2" in name:
        return "gemma"
    if "SigLIP" in name:
        return "siglip"
    return next(kind for kind in ("xlm-v", "xlm-roberta", "roberta", "mt5", "nllb", "bert") if kind in name)


def write_tokenizers(folder: Path) -> dict[str, Path]:
    """Write one folder for each kind of tokenizer; kind -> folder."""
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    framed = ["<s>", "<pad>", "</s>", "<unk>"]
    kinds: dict[str, tuple[Tokenizer, list[str], str, dict[str, str]]] = {
        "siglip": (_pieces("always"), ["<unk>", "</s>"], "$A </s>", {**special, "pad_token": "</s>"}),
        "gemma": (_pieces("never"), ["<pad>", "</s>", "<s>", "<unk>"], "$A </s>", special),
        "mt5": (_pieces("always"), ["<pad>", "</s>", "<unk>"], "$A </s>", special),
        "xlm-v": (_pieces("always"), framed, "<s> $A </s>", {**special, "bos_token": "<s>"}),
        "xlm-roberta": (_pieces("always"), framed, "<s> $A </s>", {**special, "bos_token": "<s>"}),
        "nllb": (_pieces("always"), [*framed, "eng_Latn"], "eng_Latn $A </s>", special),
        "roberta": (_bytes(), framed, "<s> $A </s>", {**special, "bos_token": "<s>"}),
        "bert": (
            _word_pieces(),
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
            "[CLS] $A [SEP]",
            {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
        ),
    }
    folders = {}
    for kind, (tokenizer, words, template, names) in kinds.items():
        _train(tokenizer, words, names["unk_token"])
        pairs = [(word, tokenizer.token_to_id(word)) for word in words if word in template]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=pairs)
        folders[kind] = folder / kind
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="right", **names).save_pretrained(
            folders[kind]
        )
    return folders


def write_encoders(folder: Path, vocabulary: int) -> dict[str, Path]:
    """Write the config of each kind of encoder; kind -> folder."""
    folders = {}
    for kind, config in ENCODERS.items():
        folders[kind] = folder / f"encoder-{kind}"
        folders[kind].mkdir()
        (folders[kind] / "config.json").write_text(json.dumps({**SIZE, **config, "vocab_size": vocabulary}))
    return folders


def write_folder(folder: Path, config: dict[str, Any]) -> Path:
    """Write a model of ``config`` with random weights as open_clip does for the hub."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    kind = (
        open_clip.CustomTextCLIP
        if config.get("custom_text") or "hf_model_name" in config["text_cfg"]
        else open_clip.CLIP
    )
    text = {**config["text_cfg"], **({"hf_model_pretrained": False} if "hf_model_name" in config["text_cfg"] else {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(**{name: value for name, value in config.items() if name != "custom_text"} | {"text_cfg": text})
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    images = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": images}))
    return folder


def shrunk(config: dict[str, Any], tokenizers: dict[str, Path], encoders: dict[str, Path]) -> dict[str, Any]:
    """Return ``config`` at width 64 and two layers, with local tokenizers and encoders."""
    small = deepcopy(config)
    small |= {"embed_dim": 32, "vision_cfg": VISION}
    text = small["text_cfg"]
    if text.get("proj_type") == "none":
        small["embed_dim"] = 64
    if text.get("hf_tokenizer_name"):
        text |= {"hf_tokenizer_name": str(tokenizers[kind_of_tokenizer(text["hf_tokenizer_name"])]), "vocab_size": 400}
    if text.get("hf_model_name"):
        text["hf_model_name"] = str(encoders[kind_of_tokenizer(text["hf_model_name"])])
    else:
        text |= {"width": 64, "heads": 2, "layers": 2}
    return small


def _pieces(scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return tokenizer


def _bytes() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _word_pieces() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # a token, no password
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _train(tokenizer: Tokenizer, special: list[str], unknown: str) -> None:
    options: dict[str, Any] = {"vocab_size": 300, "special_tokens": special, "show_progress": False}
    kind = type(tokenizer.model).__name__
    if kind == "Unigram":
        trainer: Any = trainers.UnigramTrainer(unk_token=unknown, **options)
    elif kind == "BPE":
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    else:
        trainer = trainers.WordPieceTrainer(**options)
    tokenizer.train_from_iterator(CORPUS, trainer)
