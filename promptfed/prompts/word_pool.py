"""Public words from a language model's own vocabulary, by which texts are made and varied without any private data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.language_models.model import LanguageModel

MARKS = "▁Ġ"
"""What stands before the first letter of a word in some vocabularies."""
SHORTEST = 3
"""Letters of the shortest word."""
NEIGHBOURS = 24
"""Words that may take the place of one."""


class WordPool:
    """Whole words of a vocabulary, with the model's token embeddings as their vectors.

    Args:
        model: The frozen language model.
    """

    def __init__(self, model: LanguageModel) -> None:
        tokens: dict[str, int] = {}
        for token, index in sorted(model.tokenizer.get_vocab().items(), key=lambda entry: entry[1]):
            word = token.lstrip(MARKS)
            if len(word) >= SHORTEST and word.isalpha() and word == word.lower():
                tokens.setdefault(word, index)
        self.words = list(tokens)
        table = model.model.get_input_embeddings().weight.detach().float().cpu()
        self._mean = table.mean(0)
        self._vectors = F.normalize(table[list(tokens.values())] - self._mean, dim=-1)
        self._table, self._tokenizer = table, model.tokenizer
        self._places = {word: place for place, word in enumerate(self.words)}
        self._near: dict[str, list[int]] = {}

    def near_text(self, text: str, count: int) -> list[int]:
        """Return the places of the ``count`` words whose vectors are nearest to the mean vector of a text's tokens."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._nearest(F.normalize(self._table[ids].mean(0) - self._mean, dim=0), count)

    def near_word(self, word: str) -> list[int]:
        """Return the places of the words that may take the place of ``word``; of a strange word, none."""
        if word not in self._places:
            return []
        if word not in self._near:
            self._near[word] = self._nearest(self._vectors[self._places[word]], NEIGHBOURS + 1)[1:]
        return self._near[word]

    def _nearest(self, vector: Tensor, count: int) -> list[int]:
        order = (self._vectors @ vector).sort(descending=True, stable=True).indices
        return [int(place) for place in order[:count]]

    def draw(self, places: Sequence[int], count: int, stream: torch.Generator) -> list[str]:
        """Return ``count`` words drawn from some ``places``, each as likely as another."""
        draws = torch.randint(len(places), (count,), generator=stream)
        return [self.words[places[k]] for k in draws.tolist()]
