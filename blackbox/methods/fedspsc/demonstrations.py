"""Worked examples that clients send and a server joins to one prompt (Fed-DP-CoT)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from promptfed.aggregators.base import Aggregator, AggregatorConfig
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.errors import FormatError
from promptfed.prompt_state import PromptState
from promptfed.readers.json_reader import parse_json
from promptfed.types import Update

DISCLAIMER = "Some examples follow. They were not checked and may be wrong."


@dataclass(frozen=True)
class Demonstration:
    """A ``question``, an ``answer`` with its reasoning, and the ``share`` of the wordings that came to it."""

    question: str
    answer: str
    share: float


def packed(demonstrations: Sequence[Demonstration]) -> str:
    """Encode demonstrations as JSON."""
    return json.dumps([asdict(example) for example in demonstrations], ensure_ascii=False)


def unpacked(text: str) -> list[Demonstration]:
    """Decode ``packed``; entries that are no demonstrations are left out."""
    try:
        rows = parse_json(text, finite=False, any_strings=True)
    except FormatError:
        return []
    examples = []
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and all(isinstance(row.get(name), str) for name in ("question", "answer")):
            share = row.get("share")
            trusted = min(1.0, max(0.0, share)) if isinstance(share, (int, float)) and share == share else 0.0
            example = Demonstration(_clean(row["question"]), _clean(row["answer"]), trusted)
            if example.question and example.answer:
                examples.append(example)
    return examples


def _clean(text: str) -> str:
    """Remove blank lines and control characters, which would end an example early."""
    lines = ("".join(c if c.isprintable() else " " for c in line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


class Demonstrations(Aggregator):
    """Aggregator that keeps the ``count`` examples with the largest share, under a warning that they may be wrong.

    Equal ones are in alphabetical order, each question stands once, and the text has at most ``most`` characters.
    ``shown`` formats one example.
    """

    def __init__(self, shown: Callable[[Demonstration], str], count: int, most: int) -> None:
        super().__init__(AggregatorConfig())
        self.shown, self.count, self.most = shown, count, most

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        examples = [example for update in updates for example in unpacked(text_of(update.shared["found"]))]
        parts: list[str] = []
        questions: set[str] = set()
        for example in sorted(examples, key=lambda example: (-example.share, example.question, example.answer)):
            text = self.shown(example)
            if example.question in questions or sum(map(len, parts)) + len(text) > self.most:
                continue
            questions.add(example.question)
            parts.append(text)
            if len(parts) == self.count:
                break
        # The last line break makes the question that follows an example like the others.
        prompt = "\n\n".join([DISCLAIMER, *parts]) + "\n" if parts else ""
        return PromptState({"demonstrations": text_tensor(prompt)}), server
