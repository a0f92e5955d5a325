"""Requests to a black box: a candidate prompt, and the questions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from promptfed.examples.base import Item
from promptfed.readers.json_reader import parse_json

OracleAbility = Literal["soft prompts", "text prompts", "pixel prompts", "generation", "token proposals"]
"""What some oracles can do and others cannot.

soft prompts: vectors in the place of prompt tokens; pixel prompts: values added to the preprocessed image;
generation: free text; token proposals: words that fit a blank in a text.
"""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A prompt to be scored: a ``text``, or ``soft`` vectors in its place, or ``pixels``; all empty: no prompt.

    ``soft`` ``(n_tokens, dim)``, or one prompt for each example of the request ``(examples, n_tokens, dim)``;
    ``pixels`` ``(3, height, width)`` or ``(examples, 3, height, width)``, added to preprocessed images.
    """

    text: str = ""
    soft: Tensor | None = None
    pixels: Tensor | None = None

    def on(self, row: int) -> Candidate:
        """Return the candidate for a single ``row`` of the request."""
        soft = self.soft[row] if self.soft is not None and self.soft.dim() == 3 else self.soft
        pixels = self.pixels[row] if self.pixels is not None and self.pixels.dim() == 4 else self.pixels
        return self if soft is self.soft and pixels is self.pixels else Candidate(self.text, soft, pixels)

    def needs(self) -> frozenset[str]:
        """Return the abilities that an oracle needs to score it."""
        uses = {"soft prompts": self.soft is not None, "pixel prompts": self.pixels is not None}
        if self.text:
            uses["text prompts"] = True
        return frozenset(name for name, is_needed in uses.items() if is_needed)

    def described(self) -> dict[str, Any]:
        """Return the content of a cache key: the text, and digests of vectors."""
        description: dict[str, Any] = {"text": self.text}
        for name, tensor in (("soft", self.soft), ("pixels", self.pixels)):
            if tensor is not None:
                values = tensor.detach().to("cpu").float().contiguous().numpy()
                description[name] = [list(tensor.shape), hashlib.sha256(values.tobytes()).hexdigest()]
        return description


@dataclass(frozen=True, eq=False)
class ScoreQuery:
    """One candidate on one example: how well does each of ``classes`` fit? ``prompt`` holds for this example alone."""

    prompt: Candidate
    item: Item
    classes: tuple[str, ...]
    described: dict[str, Any]
    """``prompt.described()``, made once for all the examples that share it."""

    def canonical(self) -> dict[str, Any]:
        return {"kind": "score", "prompt": self.described, "item": self.item.content_id(), "classes": self.classes}


@dataclass(frozen=True)
class TextQuery:
    """A text to be continued, by at most ``max_tokens``. ``sample`` numbers repetitions at a temperature above 0."""

    text: str
    max_tokens: int
    temperature: float = 0.0
    sample: int = 0
    stop: tuple[str, ...] = ()

    def canonical(self) -> dict[str, Any]:
        return {"kind": "text", **asdict(self)}


@dataclass(frozen=True)
class ProposalQuery:
    """Which ``count`` words fit between ``before`` and ``after``?"""

    before: str
    after: str
    count: int

    def canonical(self) -> dict[str, Any]:
        return {"kind": "proposal", **asdict(self)}


Query = ScoreQuery | TextQuery | ProposalQuery


@dataclass(frozen=True)
class OracleAnswer:
    """Answer to one query: ``scores``, ``text``, or ``tokens``, best first.

    ``scores``: one a class, higher fits better (log-probabilities where the black box has them). ``floored``: classes
    whose score was not in the reply and was set to a floor. ``unanswered``: why it cannot be used, empty for an answer;
    ``left_out``: the black box refuses this example altogether (a filter, a limit on length).
    """

    scores: tuple[float, ...] = ()
    text: str = ""
    tokens: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    floored: int = 0
    unanswered: str = ""
    left_out: bool = False

    @property
    def says_nothing(self) -> bool:
        """Return whether it is useless: no answer, or scores of which none was reported."""
        return bool(self.unanswered) or 0 < len(self.scores) <= self.floored

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> OracleAnswer:
        content = parse_json(text, any_strings=True)
        return cls(**{**content, "scores": tuple(content["scores"]), "tokens": tuple(content["tokens"])})


def key_of(fingerprint: str, query: Query) -> str:
    """Return the hex SHA-256 of the canonical request: equal questions to the same model have equal keys."""
    canonical = json.dumps([fingerprint, query.canonical()], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
