"""Black boxes small enough to compute by hand, and a method that is more than a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptfed.blackbox.base import BlackBoxMethod
from promptfed.blackbox.oracles.base import LocalBackend, SoftSpace
from promptfed.blackbox.oracles.query import OracleAnswer, Query, ScoreQuery
from promptfed.config import RunConfig
from promptfed.errors import ConfigError
from promptfed.examples.base import Item
from promptfed.export.bundle import Bundle, make_bundle
from promptfed.method import Method
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.types import ClientPrompt

CLASSES = ("cold", "hot")
HEAT = {"ice": -1.0, "fire": 1.0, "warm": 0.5}
FORM = PromptTemplate(
    template="{{ prompt }} Weather: {{ text }}\nIt is", words={"hot": "warm"}, prompts=("", "Be ${exact} {now}.")
)


class Thermometer(LocalBackend):
    """Scores (-heat, heat) for (cold, hot): the heat of a text's words, and the mean of the soft prompt's entries."""

    name, abilities = "thermometer", frozenset({"soft prompts", "text prompts", "generation"})

    def __init__(self, form: PromptTemplate = FORM, fingerprint: str = "a" * 64) -> None:
        self.form, self.fingerprint, self.soft = form, fingerprint, SoftSpace(4, 0.5, torch.zeros(0, 4))

    def scores(self, queries: Sequence[ScoreQuery]) -> Tensor:
        heats = [sum(HEAT.get(word, 0.0) for word in q.item.text.split()) for q in queries]
        soft = [0.0 if q.prompt.soft is None else q.prompt.soft.mean().item() for q in queries]
        sign = {"cold": -1.0, "hot": 1.0}
        return torch.tensor(
            [[sign.get(c, 0.0) * (h + s) for c in q.classes] for q, h, s in zip(queries, heats, soft, strict=True)]
        )

    def other(self, query: Query) -> OracleAnswer:
        return OracleAnswer(text=" It takes 3 + 4 = 7.\n#### 7")


class Everything(Thermometer):
    """A thermometer for images too, on which fire is warm."""

    name = "everything"
    abilities = frozenset({"soft prompts", "text prompts", "pixel prompts", "generation", "token proposals"})
    pixel_shape = (3, 8, 8)

    def pixels(self, items: Sequence[Item]) -> Tensor:
        return torch.arange(192.0).reshape(1, 3, 8, 8).expand(len(items), -1, -1, -1)

    def scores(self, queries: Sequence[ScoreQuery]) -> Tensor:
        return torch.tensor([[float("fire" in q.item.name), len(q.prompt.text) / 100] for q in queries])


class Remapped(BlackBoxMethod):
    """Turns the scores round: more than a prompt, and without one that could be sent."""

    name, paper = "remapped", "none"

    def step_queries(self, data):
        return 0

    def search(self, broadcast, data, personal, desk):
        raise AssertionError("nothing is trained here")

    def candidate(self, shared, personal):
        raise ConfigError("it has no prompt that could be sent")

    def logits(self, shared, personal, classes, split):
        from promptfed.blackbox.oracles.query import Candidate

        return -self.scored([Candidate()], classes, split)[0]


def bundled(method: Method, name: str, shared: PromptState, examples: str = "texts") -> Bundle:
    """A bundle of ``method`` with ``shared``, as a run with a paid server would make it."""
    options = {"api_key_env": "MY_KEY", "max_calls": 7, "model": "m"}
    config = RunConfig(task="blackbox-text", method=name, oracle="thermometer", oracle_options=options)
    return make_bundle(config, method, ClientPrompt(shared), 2, "house $2", examples)
