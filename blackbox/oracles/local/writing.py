"""Texts written by a causal language model: batches, stop strings, and draws that depend on the request alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.blackbox.oracles.query import OracleAnswer, TextQuery
from promptfed.language_models.tokens import Tokens
from promptfed.seeding import torch_stream

MOST_ROWS = 8
"""Rows of states that the word head takes the other way round."""


@torch.no_grad()
def write(model: Any, tokens: Tokens, queries: Sequence[TextQuery], limit: int) -> list[OracleAnswer]:
    """Return ``model``'s continuation of each text. All ``queries`` agree in length, temperature and stop strings.

    A text that leaves no room for ``max_tokens`` within ``limit`` loses its beginning: the question stands at the end.
    """
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    [like, *_] = queries
    end = _end_ids(model, tokens)
    room = max(1, limit - like.max_tokens - len(tokens.first))
    inputs = [[*tokens.first, *tokens.start(query.text)[-room:]] or end[:1] for query in queries]
    longest = max(map(len, inputs))
    padded = torch.tensor([[*end[:1] * (longest - len(ids)), *ids] for ids in inputs], device=model.device)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in inputs], device=model.device)
    drawing = LogitsProcessorList([_Drawing(queries)] if like.temperature > 0 else [])
    stopping = StoppingCriteriaList([_Stopping(tokens, longest, like.stop)] if like.stop else [])
    # Greedy in either case: at a temperature, noise of the right kind makes the largest logit a draw.
    rules = GenerationConfig(
        max_new_tokens=like.max_tokens, do_sample=False, num_beams=1, eos_token_id=end, pad_token_id=end[0]
    )
    own_rules, model.generation_config = model.generation_config, rules
    try:
        with _head_for_few_rows(model):
            output = model.generate(
                padded,
                attention_mask=mask,
                generation_config=rules,
                logits_processor=drawing,
                stopping_criteria=stopping,
            )
    finally:
        model.generation_config = own_rules
    answers = []
    for ids, row in zip(inputs, output[:, longest:].tolist(), strict=True):
        length = next((k for k, number in enumerate(row) if number in end), len(row))
        text = _before_stop(tokens.said(row[:length]), like.stop)
        answers.append(OracleAnswer(text=text, prompt_tokens=len(ids), completion_tokens=length))
    return answers


@contextmanager
def _head_for_few_rows(model: Any) -> Iterator[None]:
    """Have the word head on a CPU multiply its table by the states of few rows, and not the other way round.

    The product is the same to rounding. The usual way rearranges the whole table for each token that is written, which
    takes twice as long for four rows of Gemma's 262,144 words.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.bias is not None or head.weight.device.type != "cpu":
        yield
        return

    def forward(states: Tensor) -> Tensor:
        rows = states.reshape(-1, states.shape[-1])
        if not 1 < len(rows) <= MOST_ROWS:
            return F.linear(states, head.weight)
        return (head.weight @ rows.T).T.reshape(*states.shape[:-1], -1)

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


class _Drawing:
    """Gumbel noise, a stream for each request.

    The largest of (logits / temperature + noise) is a draw from the softmax, the same one in every batch.
    """

    def __init__(self, queries: Sequence[TextQuery]) -> None:
        self._temperature = queries[0].temperature
        self._streams = [torch_stream(query.sample, "writing", query.text, str(query.temperature)) for query in queries]

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        uniform = torch.stack([torch.rand(logits.shape[1], generator=stream) for stream in self._streams])
        noise = -(-uniform.clamp(1e-20, 1 - 1e-7).log()).log()
        return logits.float() / self._temperature + noise.to(logits.device)


class _Stopping:
    """True for the rows whose new text holds a stop string."""

    def __init__(self, tokens: Tokens, start: int, stop: Sequence[str]) -> None:
        self._tokens, self._start, self._stop = tokens, start, stop

    def __call__(self, ids: Tensor, scores: Any, **more: Any) -> Tensor:
        texts = [self._tokens.said(row) for row in ids[:, self._start :].tolist()]
        return torch.tensor([any(stop in text for stop in self._stop) for text in texts], device=ids.device)


def _end_ids(model: Any, tokens: Tokens) -> list[int]:
    """Return the ids that end a text: the model's own, else the tokenizer's."""
    ids = getattr(model.generation_config, "eos_token_id", None)
    if ids is None:
        ids = tokens.tokenizer.eos_token_id
    return [0] if ids is None else list(ids) if isinstance(ids, (list, tuple)) else [ids]


def _before_stop(text: str, stop: Sequence[str]) -> str:
    return text[: min([len(text), *(text.index(mark) for mark in stop if mark in text)])]
