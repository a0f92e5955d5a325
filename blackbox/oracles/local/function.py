"""A black box that is a user's function: prompts, texts and labels in, scores out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from promptfed.blackbox.oracles.base import Backend
from promptfed.blackbox.oracles.budget import Budget
from promptfed.blackbox.oracles.query import OracleAnswer, Query, ScoreQuery
from promptfed.errors import OracleError, PromptFedError, reason
from promptfed.examples.base import TextItem
from promptfed.printable import printable
from promptfed.prompt_template import PromptTemplate

ScoreFunction = Callable[[list[str], list[str], list[str]], Any]
"""``score(prompts, texts, labels)``: an array ``(prompts, texts, labels)``, of which higher fits better."""


class FunctionBackend(Backend):
    """Asks ``score`` for the pairs of prompts and texts of a request, ``rows`` at a time.

    Args:
        name: What messages call it.
        fingerprint: Changes whenever the function may answer the same question otherwise.
        score: Returns finite scores ``(prompts, texts, labels)``. Labels are the template's words for the classes.
        form: The words.
        rows: Most pairs of a prompt and a text in one call.
    """

    def __init__(self, name: str, fingerprint: str, score: ScoreFunction, form: PromptTemplate, rows: int = 32) -> None:
        words = json.dumps(sorted(form.words.items()))
        self.name, self.form, self._score, self._rows = name, form, score, rows
        self.fingerprint = hashlib.sha256(f"function 1|{fingerprint}|{words}".encode()).hexdigest()
        self.abilities = frozenset({"text prompts"})

    def answer(self, queries: Sequence[Query], budget: Budget) -> Generator[tuple[int, OracleAnswer], None, None]:
        of_prompt: dict[tuple[tuple[str, ...], str], dict[str, int]] = {}
        for position, query in enumerate(queries):
            if not isinstance(query, ScoreQuery) or not isinstance(query.item, TextItem):
                raise OracleError(f"oracle '{self.name}' is a function that scores texts: it takes no other examples")
            of_prompt.setdefault((query.classes, query.prompt.text), {})[query.item.text] = position
        texts_by_key: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for (classes, prompt), positions in of_prompt.items():
            texts_by_key.setdefault((classes, tuple(positions)), []).append(prompt)
        for (classes, texts), prompts in texts_by_key.items():
            labels = [self.form.word(name) for name in classes]
            side = min(len(texts), self._rows)
            for prompt_part, text_part in product(_parts(prompts, max(1, self._rows // side)), _parts(texts, side)):
                with budget.reserved(calls=len(prompt_part) * len(text_part)):
                    scores = self._scores(list(prompt_part), list(text_part), labels)
                for (prompt, text), row in zip(product(prompt_part, text_part), scores, strict=True):
                    yield of_prompt[classes, prompt][text], OracleAnswer(scores=tuple(row))

    def _scores(self, prompts: list[str], texts: list[str], labels: list[str]) -> list[list[float]]:
        """Return scores ``(prompts * texts, labels)``, text after text of the first prompt, and so on.

        Raises:
            OracleError: The function fails, or returns something else.
        """
        try:
            result = self._score(list(prompts), list(texts), list(labels))
        except PromptFedError as error:
            raise OracleError(f"oracle '{self.name}' failed: {reason(error)}") from error
        except Exception as error:  # a user's code may raise anything
            raise OracleError(f"oracle '{self.name}' failed: {type(error).__name__}: {reason(error)}") from error
        try:
            is_tensor = isinstance(result, torch.Tensor)
            array = np.asarray(result.detach().to("cpu", torch.float64).numpy() if is_tensor else result)
            if array.dtype.kind in "cmM":  # complex numbers and times would lose a part
                raise TypeError(f"it is of {array.dtype}")
            array = array.astype(np.float64)
        except Exception as error:  # whatever the user's object raises when it is read
            raise OracleError(f"oracle '{self.name}' returned no array of numbers: {reason(error)}") from error
        shape = (len(prompts), len(texts), len(labels))
        if array.shape != shape:
            raise OracleError(
                f"oracle '{self.name}' returned scores of shape {array.shape}, not {shape} (prompts, texts, labels)"
            )
        if not np.isfinite(array).all():
            position = tuple(np.argwhere(~np.isfinite(array))[0])
            _, text, label = position
            raise OracleError(
                f"oracle '{self.name}' returned the score {array[position]} for the label "
                f"'{printable(labels[label], 60)}' of the text '{printable(texts[text], 60)}': give finite numbers"
            )
        rows: list[list[float]] = array.reshape(-1, len(labels)).tolist()
        return rows


def _parts(values: Sequence[str], size: int) -> list[Sequence[str]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
