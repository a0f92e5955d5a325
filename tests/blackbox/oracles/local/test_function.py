"""A function of the user's as an oracle: what it is asked, what it may answer, what a run says of its faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from promptfed.blackbox.oracles.budget import Limits
from promptfed.blackbox.oracles.query import Candidate
from promptfed.errors import BudgetExhausted, ConfigError, OracleError
from promptfed.examples.base import TextItem
from promptfed.objects import function_oracle
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate

FORM = PromptTemplate(words={"pos": "great"})
ITEMS = [TextItem(text) for text in ("a", "bb", "ccc")]


class Scorer:
    """Scores by lengths, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], list[str], list[str]]] = []

    def __call__(self, prompts: list[str], texts: list[str], labels: list[str]) -> np.ndarray:
        self.asked.append((prompts, texts, labels))
        sizes = [[[len(p) + 10 * len(t) + 100 * len(k) for k in labels] for t in texts] for p in prompts]
        return np.array(sizes, dtype=np.float32)


def oracle_of(score: Any, **options: Any) -> Any:
    return function_oracle(score, FORM, OracleOptions(cache=False, **options))


def test_scores_are_those_of_the_function_and_none_is_asked_twice() -> None:
    score = Scorer()
    oracle = oracle_of(score)
    prompts = [Candidate("x"), Candidate("yy")]
    found = oracle.score(prompts, ITEMS, ["pos", "neg"])
    assert torch.equal(found, torch.from_numpy(score([p.text for p in prompts], ["a", "bb", "ccc"], ["great", "neg"])))
    assert score.asked[:1] == [(["x", "yy"], ["a", "bb", "ccc"], ["great", "neg"])], "one call, the label words"
    before = len(score.asked)
    again = oracle.score(prompts, [ITEMS[2], *ITEMS, TextItem("dddd")], ["pos", "neg"])
    assert torch.equal(again[:, 1:4], found)
    assert score.asked[before:] == [(["x", "yy"], ["dddd"], ["great", "neg"])], "only what is new"


def test_calls_have_a_bounded_size_and_the_budget_holds() -> None:
    score = Scorer()
    oracle_of(score, rows=2).score([Candidate("x"), Candidate("y")], ITEMS, ["pos", "neg"])
    assert all(len(prompts) * len(texts) <= 2 for prompts, texts, _ in score.asked)
    oracle = oracle_of(score, max_calls=4)
    assert oracle.budget.limits == Limits(calls=4)
    with pytest.raises(BudgetExhausted):
        oracle.score([Candidate("x")], [TextItem(str(k)) for k in range(5)], ["pos", "neg"])


def raises(prompts: list[str], texts: list[str], labels: list[str]) -> Any:
    raise RuntimeError("the server\nis gone")


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (lambda p, t, k: np.zeros((len(t), len(k))), r"shape \(3, 2\), not \(1, 3, 2\) \(prompts, texts, labels\)"),
        (lambda p, t, k: np.full((1, 3, 2), np.nan), "the score nan for the label 'great' of the text 'a'"),
        (lambda p, t, k: torch.full((1, 3, 2), float("inf")), "the score inf"),
        (lambda p, t, k: "high", "no array of numbers"),
        (lambda p, t, k: None, "shape|no array"),
        (lambda p, t, k: np.zeros((1, 3, 2), complex), "no array of numbers: it is of complex128"),
        (lambda p, t, k: np.zeros((1, 3, 2), "M8[s]"), "no array of numbers"),
        (lambda p, t, k: torch.empty(1, 3, 2, device="meta"), "no array of numbers"),
        (raises, "oracle 'raises' failed: RuntimeError: the server is gone"),
        (lambda p: 1, "failed: TypeError"),
    ],
)
def test_a_bad_answer_is_one_line(score: Any, words: str) -> None:
    with pytest.raises(OracleError, match=words) as error:
        oracle_of(score).score([Candidate("x")], ITEMS, ["pos", "neg"])
    assert "\n" not in str(error.value)


def test_it_takes_texts_for_prompts_and_nothing_else() -> None:
    with pytest.raises(ConfigError, match="soft prompts"):
        oracle_of(Scorer()).score([Candidate(soft=torch.zeros(1, 4))], ITEMS, ["pos", "neg"])


def test_other_code_or_words_are_another_oracle() -> None:
    def one(prompts: Any, texts: Any, labels: Any) -> Any:
        return 1

    def other(prompts: Any, texts: Any, labels: Any) -> Any:
        return 2

    options = OracleOptions(cache=False)
    prints = {function_oracle(f, form, options).fingerprint for f in (one, other) for form in (FORM, PromptTemplate())}
    assert len(prints) == 4
    assert function_oracle(one, FORM, options).fingerprint in prints
