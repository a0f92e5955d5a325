"""Small random CLIP and SigLIP models, saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import bytes_to_unicode
from torch import nn

MERGES = [("c", "a"), ("ca", "t</w>"), ("o", "f</w>"), ("p", "h"), ("ph", "o")]
SIZE = 32


def shaken(model: nn.Module) -> nn.Module:
    """Make features of different inputs clearly different."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def save_clip(folder: Path, activation: str = "quick_gelu", **text: Any) -> Any:
    """Write a CLIP with its tokenizer and image processor; return it."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, MERGES)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    shape = {"num_hidden_layers": 2, "hidden_act": activation, "projection_dim": 24}
    config = CLIPConfig(
        projection_dim=24,
        text_config={
            **shape, "hidden_size": 32, "intermediate_size": 75, "num_attention_heads": 2, "vocab_size": len(words),
            "max_position_embeddings": 40, "eos_token_id": len(words) - 1, **text,
        },
        vision_config={
            **shape, "hidden_size": 48, "intermediate_size": 192, "num_attention_heads": 3, "image_size": SIZE,
            "patch_size": 8,
        },
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = shaken(CLIPModel(config))
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=MERGES).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(folder)
    return model


def save_siglip(folder: Path, activation: str = "gelu_pytorch_tanh", **text: Any) -> Any:
    """Write a SigLIP with SigLIP 2's tokenizer and an image processor; return it."""
    from transformers import Siglip2Tokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz0123456789.!'\u2581#()"]
    merges = [("c", "a"), ("ca", "t"), ("o", "f"), ("\u2581", "a"), ("\u2581", "cat"), ("\u2581", "of")]
    words += map("".join, merges)
    shape = {"num_hidden_layers": 2, "hidden_act": activation, "hidden_size": 32, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={
            **shape, "intermediate_size": 75, "vocab_size": len(words), "max_position_embeddings": 20, **text,
        },
        vision_config={**shape, "intermediate_size": 90, "image_size": SIZE, "patch_size": 8},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = shaken(SiglipModel(config))
        with torch.no_grad():
            model.logit_scale.fill_(2.0)
            model.logit_bias.fill_(-10.0)
    model.save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(words)}
    sides = {"padding_side": "right", "add_bos_token": False, "add_eos_token": True}
    Siglip2Tokenizer(vocab=vocabulary, merges=merges, **sides).save_pretrained(folder)
    SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, resample=2).save_pretrained(folder)
    return model


def features(output: Any) -> torch.Tensor:
    """Return the features that ``get_text_features`` or ``get_image_features`` gave: newer versions wrap them."""
    tensor: torch.Tensor = getattr(output, "pooler_output", output)
    return tensor
