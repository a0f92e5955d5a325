"""A tiny random encoder that reads words, clients with a few texts each, and rounds of a method with its server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from promptfed.aggregators.mean import Mean
from promptfed.agreement import Agreement
from promptfed.examples.base import TextItem
from promptfed.inserts.low_rank import LowRank
from promptfed.language_models.model import LanguageModel
from promptfed.low_rank import dense
from promptfed.method import METHODS, Method
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split, Update

CLASSES = ("good", "bad")
WORDS = ("good", "bad", "film", "play", "fine", "poor", "slow", "warm", "cold", "plot", "cast", "song")


def tiny_encoder() -> LanguageModel:
    """Return a BERT of width 16 and two layers with the same random weights each time."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(("[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", model_max_length=32)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = BertModel(config, add_pooling_layer=False).eval()
    form = PromptTemplate(descriptions={"good": "good film", "bad": "bad play"})
    return LanguageModel("lm:tiny", form, model, wrapped, "encoder")


def setup_of(rounds: int = 4, model: LanguageModel | None = None) -> Setup:
    return Setup(model or tiny_encoder(), Agreement(classes=CLASSES, rounds=rounds, seed=5))


def make(name: str, setup: Setup, **options: Any) -> Any:
    """Return the method called ``name`` with rank 2, unless ``options`` say otherwise."""
    kind = METHODS[name]
    return kind(kind.Config.model_validate({"r": 2, "alpha": 4.0, "lr": 0.05, "local_epochs": 1, **options}), setup)


def clients(count: int = 2, texts: int = 6) -> list[ClientData]:
    """Return clients with texts of random words, of whom each has more than the one before."""
    draw = torch.Generator().manual_seed(11)
    result = []
    for client in range(count):
        n = texts + 2 * client
        numbers = torch.randint(len(WORDS), (n, 5), generator=draw).tolist()
        items = tuple(TextItem(" ".join(WORDS[k] for k in row)) for row in numbers)
        split = Split(items, torch.arange(n) % 2)
        result.append(ClientData(client, f"client {client}", (0, 1), split, split, split))
    return result


class Rounds:
    """A federation of ``data`` in one process, without checks: what is sent, what comes back, what is merged."""

    def __init__(self, method: Method, data: Sequence[ClientData]) -> None:
        self.method, self.data, self.round = method, data, 0
        self.rule = method.server_side(Mean(Mean.Config()))
        self.shared = method.init_shared()
        self.server = self.rule.init(self.shared)
        self.personal = {client.client: method.init_personal(client.client) for client in data}

    def sent(self, client: int | None) -> PromptState:
        return self.rule.broadcast(self.shared, self.server, client)

    def run(self) -> list[Update]:
        """Run a round; returns the updates, whose names and shapes are what the method says."""
        self.round += 1
        jobs = [(Broadcast(self.round, self.sent(d.client)), d, self.personal[d.client]) for d in self.data]
        replies = self.method.train_many(jobs)
        for (broadcast, data, _), (update, personal) in zip(jobs, replies, strict=True):
            wanted = self.method.uploads(data.client, broadcast.shared)
            assert {name: tuple(tensor.shape) for name, tensor in update.shared.items()} == dict(wanted)
            self.personal[data.client] = personal
        updates = [update for update, _ in replies]
        self.shared, self.server = self.rule.apply(self.shared, updates, self.server)
        return updates

    def scores(self, client: int | None = None, personal: PromptState = NO_PROMPT) -> torch.Tensor:
        """Return the scores of what ``client`` deploys on the first client's texts."""
        personal = personal if client is None else self.personal[client]
        return self.method.logits(self.sent(client), personal, CLASSES, self.data[0].test)


def changes(kind: LowRank, values: PromptState) -> dict[str, torch.Tensor]:
    """Return path -> the change ``(out, in)`` of a matrix by all factors that ``values`` hold."""
    return {
        path: torch.stack([dense(part) for part in parts]).sum(0)
        for path, parts in kind.insert(values).low_rank.items()
    }


def mean_change(rounds: Rounds, updates: Sequence[Update], sent: Sequence[PromptState]) -> dict[str, torch.Tensor]:
    """Return path -> the mean by samples of what clients have after training; ``sent`` is what they got before."""
    total = sum(update.samples for update in updates)
    mean: dict[str, torch.Tensor] = {}
    for update, broadcast in zip(updates, sent, strict=True):
        values = rounds.method.values(PromptState({**broadcast, **update.shared}), NO_PROMPT)
        for path, change in changes(rounds.method.kind, values).items():
            mean[path] = mean.get(path, 0) + update.samples / total * change
    return mean


def largest_error(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any entry."""
    return max((one[path] - other[path]).abs().max().item() for path in one)
