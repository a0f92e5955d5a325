"""The oracle `embeds`: soft prompts for a model behind HTTP, in vLLM's form (``prompt_embeds`` of completions).

The whole sequence is embedded here: a local folder has the model's tokenizer and token embeddings
(``oracle.embeddings``), for no chat template and no marker is added on the way. What is sent is base64 of
``torch.save`` of a dense 2-D float32 tensor, one for each question; labels are scored by the log-probabilities of the
first generated token. vLLM cannot run where this was written: its form and the two fields asked for in addition
(``logprob_token_ids``, ``return_tokens_as_token_ids``) are taken from its documentation and code as read, and a server
that refuses those two is asked without.

Servers that read tensors from the network had holes (CVE-2025-62164 and later ones): vLLM 0.30 or newer, in a private
network, only.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from promptfed.blackbox.oracles.base import SoftSpace
from promptfed.blackbox.oracles.query import Candidate, OracleAbility, OracleAnswer, Query, ScoreQuery
from promptfed.blackbox.oracles.remote.base import RemoteBackend, Words
from promptfed.blackbox.oracles.remote.credentials import check_address
from promptfed.blackbox.oracles.remote.embedding_table import EmbeddingTable
from promptfed.blackbox.oracles.remote.failures import Refused, Unusable
from promptfed.blackbox.oracles.remote.label_scoring import counted, first_choice, label_scores, token_scores
from promptfed.blackbox.oracles.remote.probe import PATIENCE, SAMPLE, Reply, checked_model, gap_after
from promptfed.blackbox.oracles.remote.transport import Asking, check_installed
from promptfed.errors import ConfigError, DataError, OracleError
from promptfed.examples.base import TextItem
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate
from promptfed.readers.json_reader import parse_json

T = TypeVar("T")
SOFT = "\x00"
"""Placeholder of the soft prompt in a rendered template."""
TOPS = (20, 5, 2)
WORDS = 2000
"""Common words whose embeddings soft prompts may start from."""
LARGEST = 1e4
"""No entry of a prompt may be beyond it: half-precision servers turn larger ones into infinities."""


class PromptEmbeds(RemoteBackend):
    """Soft and text prompts. ``first_ids``: of each label, the first token."""

    name = "embeds"
    abilities: frozenset[OracleAbility] = frozenset({"soft prompts", "text prompts"})

    def __init__(self, form: PromptTemplate, options: OracleOptions, table: EmbeddingTable) -> None:
        super().__init__(form, options, [table.sha256(), table.scale])
        self.table = table
        self.soft = SoftSpace(table.dim, table.std(), table.embed(list(table.tokens.words(WORDS).values())))

    def vectors(self, prompt: Candidate, text: str) -> Tensor:
        """Return the embedded sequence ``(tokens, dim)`` of ``text`` under ``prompt``, as a local model would get it.

        Raises:
            OracleError: Vectors are of another width, not finite, or huge.
        """
        tokens, soft = self.table.tokens, prompt.soft
        filled_in = self.form.render(prompt.text if soft is None else f"{SOFT} {prompt.text}", text.replace(SOFT, ""))
        pieces = [piece for piece in re.split(f"({SOFT})", filled_in) if piece]
        parts, has_text = [self.table.embed(tokens.first)], False
        for number, piece in enumerate(pieces):
            if piece == SOFT and soft is not None:
                parts.append(self._checked(soft))
            else:
                stripped = piece if number == len(pieces) - 1 else piece.rstrip(" ")
                parts.append(self.table.embed(tokens.following(stripped) if has_text else tokens.start(stripped)))
            has_text = True
        return torch.cat(parts)

    def _checked(self, soft: Tensor) -> Tensor:
        if soft.dim() != 2 or soft.shape[1] != self.table.dim:
            raise OracleError(
                f"a soft prompt is {tuple(soft.shape)}, and oracle '{self.name}' takes (n, {self.table.dim})"
            )
        vectors = soft.detach().to("cpu", torch.float32)
        if not torch.isfinite(vectors).all() or (len(vectors) and vectors.abs().max() > LARGEST):
            raise OracleError(
                f"a soft prompt for oracle '{self.name}' holds numbers that are not finite or beyond {LARGEST:g}"
            )
        return vectors

    # ------------------------------------------------------------------------------------------------- probing

    async def find_out(self, words: Words, asking: Asking) -> str:
        """Find the fields that the server takes, and the number of log-probabilities that it gives.

        Raises:
            OracleError: It gives none, or the labels begin with the same token.
        """
        ids = self.first_ids(words)
        if len(set(ids)) < len(ids):
            raise OracleError(
                f"labels {', '.join(words)} do not all begin with tokens of their own, which '{self.name}' needs: "
                "choose other words (--set task.words)"
            )
        refusals: list[Refused] = []
        sample = self.vectors(Candidate(), SAMPLE)
        with_ids: dict[str, Any] = {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
        options = [self.options.top_logprobs] if self.options.top_logprobs else None
        for extra, tops in ((with_ids, options or TOPS), ({}, options or (500, 100, *TOPS))):
            for top in tops:
                try:
                    reply = await self._post(sample, {"logprobs": top, **extra}, _first, asking, PATIENCE)
                except Refused as error:
                    if error.status not in (400, 422):
                        raise
                    refusals.append(error)
                    continue
                if extra and not all(f"token_id:{number}" in reply for number in ids):
                    break  # the server ignores the fields
                return json.dumps({"top": top, "extra": extra}, sort_keys=True)
        reason = refusals[-1].said if refusals else "no log-probabilities"
        raise OracleError(
            f"{self.options.base_url} does not take prompt_embeds ({reason}): start vLLM with --enable-prompt-embeds, "
            "and give the folder of the same model by --set oracle.embeddings"
        )

    def first_ids(self, words: Sequence[str]) -> list[int]:
        gap = gap_after(self.form.render("", SAMPLE))
        return [self.table.tokens.following(gap + word)[0] for word in words]

    # ------------------------------------------------------------------------------------------------- scoring

    async def ask_one(self, query: Query, asking: Asking) -> OracleAnswer:
        if not isinstance(query, ScoreQuery):
            raise OracleError(f"oracle '{self.name}' only scores; it cannot write or propose text")
        if not isinstance(query.item, TextItem):
            raise DataError(f"{query.item.name} is not a text, which is what oracle '{self.name}' reads")
        words = self.words(query)
        findings: dict[str, Any] = parse_json(self._probe_results[words])
        vectors = self.vectors(query.prompt, query.item.text)
        ids = self.first_ids(words)
        decode = self.table.tokens.tokenizer.decode

        def read(reply: Reply) -> OracleAnswer:
            top = _first(reply)
            if any(name.startswith("token_id:") for name in top):
                names = [f"token_id:{number}" for number in ids]
            else:
                names = [decode([number]) for number in ids]
                if not any(name in top for name in names):  # decoded one by one, without the space before
                    names = [name.strip() for name in names]
            scores, floored = label_scores(top, names, is_chat=False)
            if floored == len(words):
                return counted(reply, OracleAnswer(unanswered=f"no label is among the {len(top)} likeliest tokens"))
            return counted(reply, OracleAnswer(scores=scores, floored=floored))

        answer = await self._post(vectors, {"logprobs": findings["top"], **findings["extra"]}, read, asking)
        self.count_floored(len(words), answer.floored)
        return answer

    async def _post(
        self,
        vectors: Tensor,
        more: Mapping[str, Any],
        parse: Callable[[Reply], T],
        asking: Asking,
        patience: int | None = None,
    ) -> T:
        model = self.options.model or ""
        body = {
            "model": model,
            "prompt": "",
            "prompt_embeds": packed(vectors),
            "max_tokens": 1,
            "temperature": 0.0,
            **more,
        }

        def checked(reply: Reply) -> T:
            checked_model(model, reply.get("model"), self.options.served_model)
            return parse(reply)

        return await self.transport.post("completions", body, checked, asking, patience, size=len(vectors))


def packed(vectors: Tensor) -> str:
    """Encode a dense tensor ``(tokens, dim)`` as base64 of ``torch.save``, with just its own numbers."""
    buffer = io.BytesIO()
    torch.save(vectors.detach().to(torch.float32).contiguous().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def load(form: PromptTemplate, rest: str, options: OracleOptions, device: str, precision: str) -> PromptEmbeds:
    """Load the oracle.

    Raises:
        ConfigError: Options are missing or contradict each other.
        BackboneError: The folder does not fit.
    """
    check_installed()
    check_address(options)
    if not options.model:
        raise ConfigError("oracle 'embeds' needs --model NAME, the name that the server knows it by")
    if not options.embeddings:
        raise ConfigError(
            "oracle 'embeds' needs --set oracle.embeddings=FOLDER: the model's tokenizer and token embeddings, for the "
            "sequence is embedded on this side"
        )
    table = EmbeddingTable.read(Path(options.embeddings).expanduser())
    if options.soft_dim not in (None, table.dim):
        raise ConfigError(f"oracle.soft_dim is {options.soft_dim}, but the embeddings have {table.dim} numbers each")
    return PromptEmbeds(form, options, table)


def _first(reply: Reply) -> dict[str, float]:
    tokens = token_scores(first_choice(reply))
    if not tokens or not tokens[0].top:
        raise Unusable("the answer holds no log-probabilities")
    return dict(tokens[0].top)
