"""The oracle `api`: any OpenAI-compatible server, asked with text prompts; its answers decide how labels are scored.

logprobs: those of the labels' first tokens, one request a question; echo: the whole label, one request a label;
choice: what the model says, 1 for the label that it names first and 0 for the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from promptfed.blackbox.oracles.query import OracleAbility, OracleAnswer, ProposalQuery, Query, ScoreQuery, TextQuery
from promptfed.blackbox.oracles.remote.base import RemoteBackend, Words
from promptfed.blackbox.oracles.remote.credentials import check_address
from promptfed.blackbox.oracles.remote.failures import Unusable
from promptfed.blackbox.oracles.remote.label_scoring import (
    chosen,
    counted,
    first_choice,
    label_scores,
    spoken,
    text_of,
    thinks,
    token_scores,
    why_nothing,
)
from promptfed.blackbox.oracles.remote.probe import (
    Findings,
    Probe,
    Reply,
    checked_model,
    gap_after,
    question,
    read_echo,
)
from promptfed.blackbox.oracles.remote.transport import Asking, check_installed
from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import TextItem
from promptfed.oracle_options import OracleOptions
from promptfed.printable import printable
from promptfed.prompt_template import PromptTemplate

T = TypeVar("T")
PROPOSALS = (
    "Write {count} different single words that fit the blank, one a line, and nothing else:\n{before} ___ {after}"
)


class Api(RemoteBackend):
    """Text prompts on a server.

    A completion is the rendered template; a chat gets it as the user's message, after a system message that names the
    labels.
    """

    name = "api"
    abilities: frozenset[OracleAbility] = frozenset({"text prompts", "generation", "token proposals"})

    def __init__(self, form: PromptTemplate, options: OracleOptions) -> None:
        super().__init__(form, options, [])
        self._findings: dict[Words, Findings] = {}

    async def find_out(self, words: Words, asking: Asking) -> str:
        return (await Probe(self.transport, self.form, words, asking).run()).to_json()

    async def ask_one(self, query: Query, asking: Asking) -> OracleAnswer:
        words = self.words(query)
        if words not in self._findings:
            self._findings[words] = Findings.from_json(self._probe_results[words])
        findings = self._findings[words]
        if isinstance(query, TextQuery):
            return await self._text(findings, query, asking)
        if isinstance(query, ProposalQuery):
            return await self._proposals(findings, query, asking)
        text = self._rendered(query)
        if findings.scoring == "echo":
            return await self._echo(findings, text, words, asking)
        if findings.scoring == "choice":
            return await self._choice(findings, text, words, asking)
        body = {
            **question(findings, self._model, text, words),
            **findings.rules(1),
            **findings.asking_for(findings.top),
        }

        def read(reply: Reply) -> OracleAnswer:
            tokens = token_scores(first_choice(reply))
            if not tokens:
                raise Unusable("the answer holds no log-probabilities, which the server gave when it was probed")
            scores, floored = label_scores(tokens[0].top, findings.first, findings.endpoint == "chat")
            if floored == len(words):
                likeliest = max(tokens[0].top, key=lambda token: tokens[0].top[token])
                why = (
                    f"no label is among the {len(tokens[0].top)} likeliest tokens; it says '{printable(likeliest, 20)}'"
                )
                return counted(reply, OracleAnswer(unanswered=why))
            return counted(reply, OracleAnswer(scores=scores, floored=floored))

        answer = await self._post(findings, body, read, asking)
        self.count_floored(len(words), answer.floored)
        return answer

    def order(self, queries: Sequence[Query]) -> Sequence[int]:
        """Return the queries in the order of their texts where the server's cache is used.

        Those that begin alike follow each other, wherever the template has the prompt.
        """
        if self.options.prompt_cache != "on":
            return super().order(queries)
        return sorted(range(len(queries)), key=lambda k: self._begins(queries[k]))

    def _begins(self, query: Query) -> str:
        if isinstance(query, ScoreQuery):
            return self.form.render(query.prompt.text, query.item.text if isinstance(query.item, TextItem) else "")
        return query.text if isinstance(query, TextQuery) else query.before

    # ------------------------------------------------------------------------------------------------- scoring

    async def _echo(self, findings: Findings, text: str, words: Words, asking: Asking) -> OracleAnswer:
        scores = []
        for word in words:
            end = gap_after(text) + word
            body = {**question(findings, self._model, text + end), **findings.rules(1), "echo": True, "logprobs": 1}
            key = hashlib.sha256(
                json.dumps([self.fingerprint, self.address, body], sort_keys=True).encode()
            ).hexdigest()
            partial = self._cache.get([key]).get(key)  # of a question that was not answered whole
            if partial is None:

                def read(reply: Reply, prompt: str = text + end, end: str = end) -> OracleAnswer:
                    return counted(reply, OracleAnswer(scores=(read_echo(reply, prompt, end),)))

                partial = await self._post(findings, body, read, self._keeping(key, asking))
            scores.append(partial)
        return OracleAnswer(
            scores=tuple(answer.scores[0] for answer in scores),
            prompt_tokens=sum(answer.prompt_tokens for answer in scores),
            completion_tokens=sum(answer.completion_tokens for answer in scores),
        )

    async def _choice(self, findings: Findings, text: str, words: Words, asking: Asking) -> OracleAnswer:
        longest = self.options.choice_tokens or 4 + max(len(word.encode()) for word in words) // 2
        body = {**question(findings, self._model, text, words), **findings.rules(longest)}

        def read(reply: Reply) -> OracleAnswer:
            choice = first_choice(reply)
            index = chosen(spoken(text_of(choice)), words)
            if index is None:
                return counted(reply, OracleAnswer(unanswered=why_nothing(choice)))
            return counted(reply, OracleAnswer(scores=tuple(float(k == index) for k in range(len(words)))))

        return await self._post(findings, body, read, asking)

    def _rendered(self, query: ScoreQuery) -> str:
        if not isinstance(query.item, TextItem):
            raise DataError(f"{query.item.name} is not a text, which is what oracle '{self.name}' reads")
        return self.form.render(query.prompt.text, query.item.text)

    # ------------------------------------------------------------------------------------------------- writing

    async def _text(self, findings: Findings, query: TextQuery, asking: Asking) -> OracleAnswer:
        body = {**question(findings, self._model, query.text), **findings.rules(query.max_tokens, query.temperature)}
        if query.stop:
            body["stop"] = list(query.stop)
        if query.temperature > 0:
            body["seed"] = query.sample
        key = self.transport.key

        def read(reply: Reply) -> OracleAnswer:
            choice = first_choice(reply)
            text = text_of(choice)
            text = spoken(text) if thinks(text) else text
            why = "" if text.strip() else why_nothing(choice)
            return counted(reply, OracleAnswer(text=key.kept_out(text), unanswered=why))

        return await self._post(findings, body, read, asking)

    async def _proposals(self, findings: Findings, query: ProposalQuery, asking: Asking) -> OracleAnswer:
        """Return the words that the model is likeliest to say next, by completions; a chat is asked for a list.

        Completions do not see the text behind the blank: a language model reads forwards.
        """
        if findings.endpoint == "chat":
            text = PROPOSALS.format(count=query.count, before=query.before, after=query.after)
            body = {**question(findings, self._model, text), **findings.rules(8 * query.count + 8)}
        else:
            body = {**question(findings, self._model, query.before), **findings.rules(1)}
            body |= findings.asking_for(min(20, max(5, query.count)))

        def read(reply: Reply) -> OracleAnswer:
            choice = first_choice(reply)
            tokens = token_scores(choice) if findings.endpoint == "completions" else []
            top = tokens[0].top if tokens else {}
            likeliest = sorted(top, key=lambda token: -top[token]) or spoken(text_of(choice)).split()
            words = dict.fromkeys(word.strip(" \t\n-*.,0123456789") for word in likeliest)
            fitting = [word for word in words if word.isalpha()]
            why = "" if fitting else why_nothing(choice)
            return counted(reply, OracleAnswer(tokens=tuple(fitting[: query.count]), unanswered=why))

        return await self._post(findings, body, read, asking)

    # ---------------------------------------------------------------------------------------------- one request

    @property
    def _model(self) -> str:
        return self.options.model or ""

    async def _post(
        self, findings: Findings, body: Mapping[str, Any], parse: Callable[[Reply], T], asking: Asking
    ) -> T:
        def checked(reply: Reply) -> T:
            checked_model(self._model, reply.get("model"), self.options.served_model)
            return parse(reply)

        return await self.transport.post(findings.endpoint, body, checked, asking)


def load(form: PromptTemplate, rest: str, options: OracleOptions, device: str, precision: str) -> Api:
    """Load the oracle without a request: the server is probed at the first question that the cache cannot answer.

    Raises:
        ConfigError: Options are wrong.
    """
    check_installed()
    check_address(options)
    if not options.model:
        raise ConfigError(
            f"oracle 'api' needs --model NAME: the names are at {(options.base_url or '').rstrip('/')}/models"
        )
    return Api(form, options)
