"""Probe before the first question: the content of the server's replies, and the best way to score labels with it.

Servers differ in all of it, and some ignore unknown parameters (llama.cpp accepts ``echo`` and any model's name). So
only properties that an answer shows are relied on. The probe's requests hold no data, only template and label words.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from promptfed.blackbox.oracles.remote.failures import Refused, Unanswerable, Unusable
from promptfed.blackbox.oracles.remote.label_scoring import (
    TokenScores,
    echo_score,
    first_choice,
    plain,
    spelled,
    text_of,
    token_scores,
)
from promptfed.blackbox.oracles.remote.transport import Asking, Endpoint, Transport
from promptfed.errors import OracleError
from promptfed.printable import printable
from promptfed.prompt_template import PromptTemplate
from promptfed.readers.json_reader import parse_json

log = logging.getLogger(__name__)
T = TypeVar("T")
Reply = dict[str, Any]
Scoring = Literal["logprobs", "echo", "choice"]
SAMPLE = "This is an example."
TOPS, MORE = (20, 5, 2), (100, 500, 2000, 10000)
"""How many log-probabilities are asked for: 20 and 5 are what OpenAI allows (chats, completions); more if labels are
still missing. Servers that allow any number return 0.1 MB for 1000."""
SPARE = 20
"""A label of rank r in the sample is looked for among the ``SPARE * r`` likeliest tokens, where the server gives so
many: with Gemma 270M labels went from rank 50 there to 900 on film reviews."""
WIDE = 2000
"""Beyond this number only missing labels are searched for, because answers get large."""
PATIENCE = 3
"""Tries before a feature counts as missing on a server: single answers may be faulty."""
EQUAL = 1e-4
"""Scores of one question that differ by no more are the same."""
SYSTEM = "Classify the text. Answer with one of these labels only, and nothing else: {words}."


@dataclass(frozen=True)
class Findings:
    """Findings of a probe.

    ``top``: log-probabilities to ask for; ``first``: the first token of each label as the server spells it; ``limit``:
    its name for the most tokens of an answer; ``temperature``: whether it accepts one; ``cache``: what it is told about
    its prompt cache (None: nothing).
    """

    endpoint: Endpoint
    scoring: Scoring
    top: int = 0
    first: tuple[str, ...] = ()
    limit: str = "max_tokens"
    temperature: bool = True
    cache: bool | None = None

    def to_json(self) -> str:
        content = {name: value for name, value in asdict(self).items() if (name, value) != ("cache", None)}
        return json.dumps(content, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Findings:
        content = parse_json(text)
        return cls(**{**content, "first": tuple(content["first"])})

    def rules(self, tokens: int, temperature: float = 0.0) -> dict[str, Any]:
        """Return the part of a request that bounds its answer."""
        return {self.limit: tokens, **({"temperature": temperature} if self.temperature else {})}

    def asking_for(self, top: int) -> dict[str, Any]:
        """Return the part of a request that asks for ``top`` log-probabilities at each position."""
        return {"logprobs": top} if self.endpoint == "completions" else {"logprobs": True, "top_logprobs": top}


def question(findings: Findings, model: str, text: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """Return the part of a request that holds the text; a chat is told the label ``words`` to answer with."""
    more = {} if findings.cache is None else {"cache_prompt": findings.cache}
    if findings.endpoint == "completions":
        return {"model": model, "prompt": text, **more}
    system = [{"role": "system", "content": SYSTEM.format(words=", ".join(words))}] if words else []
    return {"model": model, "messages": [*system, {"role": "user", "content": text}], **more}


def gap_after(text: str) -> str:
    """Return the text between a text and a label that continues it."""
    return "" if not text or text[-1].isspace() else " "


def checked_model(requested: str, reported: object, served: str | None = None) -> None:
    """Check that an answer comes from the requested model (or from ``served``, if given).

    Dates, folders and endings that servers add to a name or leave out are the same model (gpt-4o: gpt-4o-2024).

    Raises:
        OracleError: It comes from another model.
    """
    if not isinstance(reported, str) or not reported:
        return
    if served is not None:
        if reported != served:
            raise OracleError(
                f"the server answers with model '{printable(reported, 80)}', not with '{printable(served, 80)}', as "
                "oracle.served_model says"
            )
        return
    first, second = (name.lower().rsplit("/", 1)[-1].removesuffix(".gguf") for name in (requested, reported))
    if not (first.startswith(second) or second.startswith(first)):
        raise OracleError(
            f"the server answers with model '{printable(reported, 80)}', not '{requested}': if you mean that one, "
            f"say --set oracle.served_model='{printable(reported, 80)}'; else use --model with a name that it knows"
        )


class Probe:
    """Probe of one server, about one set of label words."""

    def __init__(self, transport: Transport, form: PromptTemplate, words: Sequence[str], asking: Asking) -> None:
        self.transport, self.options, self.asking = transport, transport.options, asking
        self.model = self.options.model or ""
        self.words = tuple(words)
        self.text = form.render("", SAMPLE)

    async def run(self) -> Findings:
        """Probe the server.

        Raises:
            OracleError: It cannot be used; the message says what the server returns and what to do.
        """
        findings, option = await self._way(), self.options.prompt_cache
        return findings if option == "server" else await self._with_cache(findings, option == "on")

    async def _way(self) -> Findings:
        mode = self.options.mode
        endpoints: tuple[Endpoint, ...] = ("completions", "chat") if mode == "auto" else (mode,)
        refusals, usable = [], list[Findings]()
        for endpoint in endpoints:
            try:
                findings = await self._tried(endpoint)
            except Refused as error:
                if error.status in (401, 403):
                    raise
                refusals.append(error)
                continue
            usable.append(findings)
            if findings.scoring != "choice" or not self.words or self.options.scoring == "choice":
                return findings
        if usable:
            if self.options.scoring in ("logprobs", "echo"):
                raise self._unfit()
            return usable[0]
        raise await self._none(refusals)

    async def _tried(self, endpoint: Endpoint) -> Findings:
        """Return the findings about ``endpoint``.

        Raises:
            Refused: It does not answer at all.
        """
        findings, first = await self._first_answer(endpoint)
        if not self.words:
            return findings
        scoring = self.options.scoring
        if scoring in ("auto", "logprobs") and first is not None and len(first.top) > 1:
            scored = await self._label_tokens(findings, first)
            if scored is not None:
                return scored
        if scoring in ("auto", "echo") and endpoint == "completions" and await self._echoes(findings):
            return Findings(endpoint, "echo", 1, (), findings.limit, findings.temperature)
        return Findings(endpoint, "choice", 0, (), findings.limit, findings.temperature)

    async def _first_answer(self, endpoint: Endpoint) -> tuple[Findings, TokenScores | None]:
        """Find the parameters that the server takes, and the most log-probabilities that it gives."""
        wants_scores = bool(self.words) and self.options.scoring in ("auto", "logprobs")
        tops = [self.options.top_logprobs] if self.options.top_logprobs else list(TOPS)
        plans = [(top, "max_tokens", True) for top in tops] if wants_scores else []
        plans += [(0, "max_tokens", True)]
        plans += [
            (top, "max_completion_tokens", warm) for warm in (True, False) for top in (tops[:1] if wants_scores else [])
        ]
        plans += [(0, "max_completion_tokens", True), (0, "max_completion_tokens", False)]
        refusal: Refused | None = None
        gives_none = False
        for top, limit, takes_temperature in plans:
            if top and gives_none:
                continue
            findings = Findings(endpoint, "choice", top, (), limit, takes_temperature)
            extra = findings.asking_for(top) if top else {}
            body = {**question(findings, self.model, self.text, self.words), **findings.rules(1), **extra}
            try:
                first = await self._post(endpoint, body, _first_token if top else _no_token)
            except Refused as error:
                if error.status not in (400, 422) and not (error.status == 403 and "logprobs" in error.said):
                    raise
                refusal = error
                continue
            except Unanswerable:
                if not top:
                    raise
                gives_none = True
                continue
            return Findings(endpoint, "choice", top if first else 0, (), limit, takes_temperature), first
        assert refusal is not None
        raise refusal

    async def _with_cache(self, findings: Findings, is_on: bool) -> Findings:
        """Return ``findings`` with what the server is told about its prompt cache, and say what that does to scores.

        A question is asked without the cache; to try the cache, it is asked again with it.
        """
        tops, cached = list[Mapping[str, float]](), 0
        try:
            for use in (False, True) if is_on else (False,):
                told = replace(findings, cache=use)
                body = {**question(told, self.model, self.text, self.words), **findings.rules(1)}
                body |= findings.asking_for(findings.top) if findings.scoring == "logprobs" else {}
                top, cached = await self._post(findings.endpoint, body, _first_and_cached)
                tops.append(top)
        except Refused as error:
            log.warning("%s does not take cache_prompt (%s): it is left out", self.options.base_url, error.said)
            return findings
        if is_on:
            gap = max((abs(tops[0][token] - tops[1][token]) for token in tops[0].keys() & tops[1].keys()), default=0.0)
            say = log.warning if gap > EQUAL or not cached else log.info
            say(
                "%s reused %d tokens of a question that it had seen, and its log-probabilities differed by %.1e at "
                "most%s%s",
                self.options.base_url, cached, gap,
                "" if cached else "; a model with a sliding window is kept by llama.cpp --swa-full alone",
                ": scores depend a little on what was asked before (oracle.prompt_cache=off)" if gap > EQUAL else "",
            )  # fmt: skip
        return replace(findings, cache=is_on)

    # ------------------------------------------------------------------------------------------------- labels

    async def _label_tokens(self, findings: Findings, first: TokenScores | None) -> Findings | None:
        """Score by the log-probabilities of the labels' first tokens; None if those cannot be told apart."""
        top, names = findings.top, self._single(findings, first)
        if self.options.top_logprobs is None and findings.limit == "max_tokens":
            for more in MORE:
                # Several tokens may have the same text, so a few fewer than asked for are no sign of a limit.
                if first is None or len(first.top) < 0.9 * top:
                    break
                if all(names) and (self._rank(findings, first, names) * SPARE <= top or top >= WIDE):
                    break
                body = {
                    **question(findings, self.model, self.text, self.words),
                    **findings.rules(1),
                    **findings.asking_for(more),
                }
                try:
                    wider = await self._post(findings.endpoint, body, _first_token)
                except (Refused, Unanswerable):
                    break
                if len(wider.top) <= len(first.top):
                    break
                first, top = wider, more
                names = self._single(findings, first)
        if not all(names):
            spellings = await self._spelling(findings)
            names = [name or spellings.get(word, [""])[0] for name, word in zip(names, self.words, strict=True)]
        told_apart = {plain(name) if findings.endpoint == "chat" else name for name in names}
        if not all(names) or len(told_apart) < len(self.words):
            return None
        return Findings(findings.endpoint, "logprobs", top, tuple(names), findings.limit, findings.temperature)

    def _single(self, findings: Findings, first: TokenScores | None) -> list[str]:
        """Return for each label the token that is all of it, if one is among the tokens of the reply."""
        top = {} if first is None else first.top
        if findings.endpoint == "chat":
            spellings = {plain(token): token for token in top}
            return [plain(word) if plain(word) in spellings else "" for word in self.words]
        gap = gap_after(self.text)
        # Servers that decode tokens one by one lose the space before a word.
        has_gap = not gap or any(token.startswith(" ") for token in top)
        return [name if (name := (gap if has_gap else "") + word) in top else "" for word in self.words]

    def _rank(self, findings: Findings, first: TokenScores, names: Sequence[str]) -> int:
        """Return the rank of the unlikeliest label among the tokens of the reply, from 1."""
        ordered = sorted(first.top, key=lambda token: -first.top[token])
        spelt = [plain(token) for token in ordered] if findings.endpoint == "chat" else ordered
        return max(spelt.index(name) for name in names) + 1

    async def _spelling(self, findings: Findings) -> dict[str, list[str]]:
        """Return word -> its tokens, as the server shows them when it repeats the words in an echo or in a reply."""
        gap = gap_after(self.text) or "\n"
        line = "\nlabels" + "".join(gap + word for word in self.words)
        if findings.endpoint == "chat":
            gap = "\n"
            request = "Repeat these lines exactly, and write nothing else:\n" + "\n".join(("labels", *self.words))
            body = question(findings, self.model, request)
        else:
            body = question(findings, self.model, line * 3 + "\nlabels")
        tokens = 8 + sum(2 + len(word.encode()) // 2 for word in self.words)
        chat = {**body, **findings.rules(min(tokens, 400)), **findings.asking_for(1)}
        if findings.endpoint == "completions":
            chat["echo"] = True
        try:
            tokens_shown = await self._post(findings.endpoint, chat, lambda reply: token_scores(_answered(reply)))
        except (Refused, Unanswerable):
            return {}
        return spelled(tokens_shown, self.words, gap)

    async def _echoes(self, findings: Findings) -> bool:
        """Return whether the server scores the tokens of a prompt that it repeats."""
        end = gap_after(self.text) + self.words[0]
        body = {**question(findings, self.model, self.text + end), **findings.rules(1), "echo": True, "logprobs": 1}
        try:
            await self._post("completions", body, lambda reply: read_echo(reply, self.text + end, end))
        except (Refused, Unanswerable):
            return False
        return True

    # ------------------------------------------------------------------------------------------------ refusing

    async def _post(self, endpoint: Endpoint, body: Mapping[str, Any], parse: Callable[[Reply], T]) -> T:
        def checked(reply: Reply) -> T:
            checked_model(self.model, reply.get("model"), self.options.served_model)
            return parse(reply)

        return await self.transport.post(endpoint, body, checked, self.asking, patience=PATIENCE)

    def _unfit(self) -> OracleError:
        scoring = self.options.scoring
        reasons = {
            "logprobs": "no log-probabilities from which the labels' first tokens could be told apart",
            "echo": "no log-probabilities of an echoed prompt (completions with echo)",
        }[scoring]
        return OracleError(
            f"{self.options.base_url} returns {reasons}, which --set oracle.scoring={scoring} needs; labels: "
            f"{', '.join(self.words)}. Take --set oracle.scoring=choice (the model's answer counts as 1 or 0), or "
            "other label words (--set task.words), or a server that returns them"
        )

    async def _none(self, refusals: Sequence[Refused]) -> OracleError:
        reasons = "; ".join(dict.fromkeys(error.said for error in refusals))
        models = await self.transport.models()
        if models and self.model not in models:
            listing = ", ".join(models[:10]) + (", ..." if len(models) > 10 else "")
            return OracleError(
                f"{self.options.base_url} has no model '{self.model}', but {listing}: choose one by --model"
            )
        return OracleError(
            f"{self.options.base_url} answers neither completions nor chats with model '{self.model}' ({reasons}): "
            "does the address end as the server's does (mostly /v1), and is the model's name right?"
        )


def read_echo(reply: Reply, prompt: str, end: str) -> float:
    """Return ``echo_score`` of an answer with one generated token or none."""
    usage = reply.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return echo_score(token_scores(first_choice(reply)), prompt, end, count if isinstance(count, int) else None)


def _answered(reply: Reply) -> Mapping[str, Any]:
    choice = first_choice(reply)
    text_of(choice)
    return choice


def _first_token(reply: Reply) -> TokenScores:
    tokens = token_scores(_answered(reply))
    if not tokens or not tokens[0].top:
        raise Unusable("the answer holds no log-probabilities")
    return tokens[0]


def _no_token(reply: Reply) -> None:
    _answered(reply)


def _first_and_cached(reply: Reply) -> tuple[Mapping[str, float], int]:
    """Return the log-probabilities of the first token, if there are any, and how many tokens the server reused."""
    tokens, usage = token_scores(_answered(reply)), reply.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return (tokens[0].top if tokens else {}), cached if isinstance(cached, int) else 0
