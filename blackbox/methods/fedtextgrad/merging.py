"""Merging of prompts that are texts: by the clients' ranks, by concatenation, or by a summary.

Shared: ``text``, the current prompt; with ``RankSelection`` also ``pool/000``, ``pool/001`` ...: the texts that clients
rank next, the current prompt first. All uint8, UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorConfig
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.text.quotation_filter import sentences, shortened
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.prompt_state import PromptState
from promptfed.types import Update

POOL = "pool/"
VARIED = 0.4
"""Share of different words that a text needs: English sentences have far more, loops far fewer."""
_LABEL = re.compile(
    r"\b(?:question|text|right answer|answer|right is|it said|criticism|critique|instruction|improvement|improved "
    r"instruction|examples?)s?:",
    re.IGNORECASE,
)
SUMMARY = "Write one instruction that says the same as all of these, without repetition."
EVEN_SUMMARY = (
    "Write one instruction that says the same as all of these, without repetition. Spread the information evenly: "
    "every sentence tells the reader about as much as every other one, in plain words and in a sensible order."
)
"""For a uniform information density: the paper names the principle; these words are ours."""


def pool_of(shared: Mapping[str, Tensor]) -> list[str]:
    """Return the texts to be ranked, the current prompt first."""
    return [text_of(shared[name]) for name in sorted(shared) if name.startswith(POOL)]


def candidate_pool(texts: Sequence[str]) -> PromptState:
    """Return the state in which ``texts`` are to be ranked and the first of them is the current prompt."""
    tensors = {f"{POOL}{k:03}": text_tensor(text) for k, text in enumerate(texts)}
    return PromptState({"text": text_tensor(texts[0]), **tensors})


def plain(text: str) -> str:
    """Reduce a text from outside to one line of printable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text.replace("\ufffd", " ")).split())


def mean_ranks(ranks: Sequence[Sequence[float]], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean rank ``(texts,)`` float64, 1 is best.

    Each client's row is ranked anew (ties share their mean), so that no client exceeds its weight.
    """
    rows = torch.tensor(ranks, dtype=torch.float64)
    better = (rows[:, None, :] < rows[:, :, None]).double().sum(-1)
    level = (rows[:, None, :] == rows[:, :, None]).double().sum(-1)
    share = torch.tensor(weights, dtype=torch.float64)
    return share / share.sum() @ (better + (level + 1) / 2)


class RankSelection(Aggregator):
    """The text of the last pool with the best mean rank becomes the prompt.

    Of equal ones it is the first, so the old prompt stays unless another is better. The new pool is it and the clients'
    new texts, each text once, sorted. A client's ranking of its own text is not trusted more than others, and no
    language model is needed. ``most``: characters of a text.
    """

    def __init__(self, most: int) -> None:
        super().__init__(AggregatorConfig())
        self.most = most

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        ranks = [update.shared["ranks"].tolist() for update in updates]
        mean = mean_ranks(ranks, [update.samples for update in updates])
        best = pool_of(shared)[int(mean.argmin())]
        return candidate_pool([best, *(text for text in distinct_texts(updates, self.most) if text != best)]), server


class ConcatMerge(Aggregator):
    """The clients' sentences one after another, each once, up to ``most`` characters.

    The end is lost, which is what the paper finds against concatenation.
    """

    def __init__(self, most: int) -> None:
        super().__init__(AggregatorConfig())
        self.most = most

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        text = joined_texts(distinct_texts(updates, self.most), self.most)
        return PromptState({"text": text_tensor(text or text_of(shared["text"]))}), server


class SummaryMerge(Aggregator):
    """A language model at the server writes one instruction out of the clients': one query a round.

    The ledger has it under client -1. If the reply is not usable, the texts are joined. Server memory: ``round``
    ``(1,)``. ``instruction``: the model's task; ``clean``: makes an instruction, or "", of its reply.
    """

    def __init__(self, oracle: Oracle, instruction: str, most: int) -> None:
        super().__init__(AggregatorConfig())
        self.oracle, self.instruction, self.most = oracle, instruction, most

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({"round": torch.zeros(1, dtype=torch.int32)})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        round = int(server["round"]) + 1 if len(server) else 1
        texts = distinct_texts(updates, self.most)
        text = joined_texts(texts, self.most)
        if len(texts) > 1:
            request = "\n".join([self.instruction, *(f"- {line}" for line in texts), "Instruction:"])
            with self.oracle.account(round=round, client=-1):
                [reply] = self.oracle.generate([request], max_tokens=tokens_for(self.most), stop=("\n\n",))
            text = instruction_of(reply, self.most) or text
        memory = PromptState({"round": torch.tensor([round], dtype=torch.int32)})
        return PromptState({"text": text_tensor(text or text_of(shared["text"]))}), memory


def distinct_texts(updates: Iterable[Update], limit: int) -> list[str]:
    """Return the clients' texts, made plain and short, each once, sorted, so that clients' numbers do not matter."""
    texts = {shortened(plain(text_of(update.shared["text"])), limit) for update in updates}
    return sorted(text for text in texts if text)


def joined_texts(texts: Sequence[str], limit: int) -> str:
    """Return all sentences of ``texts``, each once, up to ``limit`` characters."""
    return shortened(" ".join(dict.fromkeys(part for text in texts for part in sentences(text))), limit)


def instruction_of(reply: str, limit: int) -> str:
    """Return the instruction in a language model's ``reply``.

    It is the first paragraph without labels, list marks and quotes, each sentence once, at most ``limit`` characters. A
    weak model goes on with examples of its own: the text behind a label such as "Question:" is left out. The result is
    "" if nothing is left but marks and numbers, or a few words again and again.
    """
    lines = [line.strip() for line in reply.strip().splitlines()]
    end = lines.index("") if "" in lines else len(lines)
    text = plain(" ".join(lines[:end]))
    label, colon, content = text.partition(":")
    if colon and len(label.split()) <= 4 and "instruction" in label.casefold():
        text = content
    text = _LABEL.split(text)[0].strip(" \"'`*-#>\u201c\u201d")
    text = shortened(" ".join(dict.fromkeys(sentences(text))), limit)
    words = text.casefold().split()
    if sum(c.isalpha() for c in text) < 3 or len(set(words)) < VARIED * len(words):
        return ""
    return text


def tokens_for(characters: int) -> int:
    """Return the tokens that so many characters of English may take, a little more than usual."""
    return characters // 3 + 1
