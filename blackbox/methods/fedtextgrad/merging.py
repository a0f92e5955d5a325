"""How a server merges prompts that are texts: it chooses one by the clients' ranks, joins them, or has them summed up.

Shared: ``text``, the prompt in force; with ``RankSelection`` also ``pool/000``, ``pool/001`` ...: the texts that
clients are to rank next, the prompt in force first. All uint8, UTF-8.
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
    """The texts to be ranked, the prompt in force first."""
    return [text_of(shared[name]) for name in sorted(shared) if name.startswith(POOL)]


def candidate_pool(texts: Sequence[str]) -> PromptState:
    """The state in which ``texts`` are to be ranked and the first of them is the prompt in force."""
    found = {f"{POOL}{k:03}": text_tensor(text) for k, text in enumerate(texts)}
    return PromptState({"text": text_tensor(texts[0]), **found})


def plain(text: str) -> str:
    """``text`` in one line of printable characters: what a server makes of a text that somebody sent."""
    return " ".join("".join(c if c.isprintable() else " " for c in text.replace("\ufffd", " ")).split())


def mean_ranks(ranks: Sequence[Sequence[float]], weights: Sequence[float]) -> Tensor:
    """Weighted mean rank ``(texts,)`` float64, 1 is best. Each client's row is ranked anew (ties share their mean), so
    that no client counts for more than its weight."""
    sent = torch.tensor(ranks, dtype=torch.float64)
    behind = (sent[:, None, :] < sent[:, :, None]).double().sum(-1)
    level = (sent[:, None, :] == sent[:, :, None]).double().sum(-1)
    share = torch.tensor(weights, dtype=torch.float64)
    return share / share.sum() @ (behind + (level + 1) / 2)


class RankSelection(Aggregator):
    """The prompt in force becomes the text of the last pool with the best mean rank; of equal ones the first, so the
    old prompt stays unless another is better. The new pool is it and what clients sent now, each text once, sorted.

    No text is taken on the word of who wrote it, and no language model is asked. ``most``: characters of a text.
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
    """The clients' sentences one after another, each once, as many as fit into ``most`` characters: what is sent
    last is lost, which is what the paper finds against concatenation."""

    def __init__(self, most: int) -> None:
        super().__init__(AggregatorConfig())
        self.most = most

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        text = joined_texts(distinct_texts(updates, self.most), self.most)
        return PromptState({"text": text_tensor(text or text_of(shared["text"]))}), server


class SummaryMerge(Aggregator):
    """A language model at the server writes one instruction out of the clients': one query a round, written down for
    client -1. If nothing usable comes back, the texts are joined.

    Server memory: ``round`` ``(1,)``. ``instruction``: what the model is told; ``clean``: makes an instruction, or "",
    of what it says.
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
            asked = "\n".join([self.instruction, *(f"- {one}" for one in texts), "Instruction:"])
            with self.oracle.account(round=round, client=-1):
                [said] = self.oracle.generate([asked], max_tokens=tokens_for(self.most), stop=("\n\n",))
            text = instruction_of(said, self.most) or text
        memory = PromptState({"round": torch.tensor([round], dtype=torch.int32)})
        return PromptState({"text": text_tensor(text or text_of(shared["text"]))}), memory


def distinct_texts(updates: Iterable[Update], most: int) -> list[str]:
    """The texts that were sent, made plain and short, each once, sorted, so that nobody's number matters."""
    found = {shortened(plain(text_of(update.shared["text"])), most) for update in updates}
    return sorted(text for text in found if text)


def joined_texts(texts: Sequence[str], most: int) -> str:
    """All sentences of ``texts``, each once, as far as ``most`` characters go."""
    return shortened(" ".join(dict.fromkeys(part for text in texts for part in sentences(text))), most)


def instruction_of(said: str, most: int) -> str:
    """The instruction in what a language model ``said``: its first paragraph without labels, list marks and quotes,
    each sentence once, at most ``most`` characters. A weak model goes on with examples of its own: what follows a label
    such as "Question:" is left out. "" if nothing is left but marks and numbers, or a few words again and again.
    """
    lines = [line.strip() for line in said.strip().splitlines()]
    end = lines.index("") if "" in lines else len(lines)
    text = plain(" ".join(lines[:end]))
    label, colon, rest = text.partition(":")
    if colon and len(label.split()) <= 4 and "instruction" in label.casefold():
        text = rest
    text = _LABEL.split(text)[0].strip(" \"'`*-#>\u201c\u201d")
    text = shortened(" ".join(dict.fromkeys(sentences(text))), most)
    words = text.casefold().split()
    if sum(c.isalpha() for c in text) < 3 or len(set(words)) < VARIED * len(words):
        return ""
    return text


def tokens_for(characters: int) -> int:
    """Tokens that so many characters of English may take, a little more than usual."""
    return characters // 3 + 1
