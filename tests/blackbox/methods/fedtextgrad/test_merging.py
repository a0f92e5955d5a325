"""How texts are merged: ranks by hand, joining, and a summary by a model that may say anything."""

from __future__ import annotations

import pytest
import torch

from promptfed.blackbox.methods.fedtextgrad.merging import (
    SUMMARY,
    ConcatMerge,
    RankSelection,
    SummaryMerge,
    candidate_pool,
    instruction_of,
    mean_ranks,
    pool_of,
)
from promptfed.blackbox.oracles.query import OracleAnswer
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Update


def update(client, text, samples=1, ranks=None):
    more = {} if ranks is None else {"ranks": torch.tensor(ranks)}
    return Update(client, PromptState({"text": text_tensor(text), **more}), samples, 0.0, 0.0)


def test_weighted_mean_ranks_by_hand():
    # Rows are ranked anew: (1, 2, 3), (2.5, 2.5, 1) for a tie, (3, 2, 1) for a client that shouts.
    found = mean_ranks([[1.0, 2.0, 3.0], [7.0, 7.0, 0.5], [1e9, 0.0, -1e9]], [1, 1, 2])
    assert found.tolist() == [(1 + 2.5 + 6) / 4, (2 + 2.5 + 4) / 4, (3 + 1 + 2) / 4]


def test_the_best_mean_rank_is_in_force_and_the_old_prompt_stays_on_a_tie():
    rule, shared = RankSelection(100), candidate_pool(["old", "one", "two"])
    ranks = [[2.0, 1.0, 3.0], [3.0, 1.0, 2.0]]
    after, _ = rule.apply(shared, [update(0, "b", 1, ranks[0]), update(1, "a", 1, ranks[1])], NO_PROMPT)
    assert text_of(after["text"]) == "one"
    assert pool_of(after) == ["one", "a", "b"]
    tie = [[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]]
    after, _ = rule.apply(shared, [update(0, "b", 1, tie[0]), update(1, "b", 1, tie[1])], NO_PROMPT)
    assert pool_of(after) == ["old", "b"]


def test_weights_decide_and_the_order_of_clients_does_not():
    rule, shared = RankSelection(100), candidate_pool(["old", "one"])
    sent = [update(0, "b", 1, [1.0, 2.0]), update(1, "a", 3, [2.0, 1.0])]
    found = rule.apply(shared, sent, NO_PROMPT)[0]
    assert pool_of(found) == ["one", "a", "b"]
    assert rule.apply(shared, sent[::-1], NO_PROMPT)[0] == found


def test_what_is_sent_is_made_plain_and_short():
    rule = RankSelection(12)
    after, _ = rule.apply(candidate_pool(["old"]), [update(0, "Tidy\x00 up.\n\nThen more.", 1, [1.0])], NO_PROMPT)
    assert pool_of(after) == ["old", "Tidy up."]
    after, _ = rule.apply(candidate_pool(["old"]), [update(0, "\x01\x02", 1, [1.0])], NO_PROMPT)
    assert pool_of(after) == ["old"]


def test_joined_has_every_sentence_once_as_far_as_they_fit():
    sent = [update(0, "Be short. Be kind."), update(1, "Be kind. Be right."), update(2, "Zeal!")]
    after, _ = ConcatMerge(100).apply(candidate_pool(["old"]), sent, NO_PROMPT)
    assert text_of(after["text"]) == "Be kind. Be right. Be short. Zeal!"
    after, _ = ConcatMerge(20).apply(candidate_pool(["old"]), sent, NO_PROMPT)
    assert text_of(after["text"]) == "Be kind. Be right."
    after, _ = ConcatMerge(20).apply(PromptState({"text": text_tensor("old")}), [update(0, "")], NO_PROMPT)
    assert text_of(after["text"]) == "old"


def test_a_summary_is_one_query_of_nobody_s_a_round(oracle, backend):
    backend.other = lambda query: OracleAnswer(text='Instruction: "Be kind and short."\nAll in one.\n\nNext')
    rule = SummaryMerge(oracle, SUMMARY, 100)
    shared, memory = PromptState({"text": text_tensor("old")}), rule.init(NO_PROMPT)
    for _ in range(2):
        shared, memory = rule.apply(shared, [update(0, "Be short."), update(1, "Be kind.")], memory)
    assert text_of(shared["text"]) == 'Be kind and short." All in one.'
    rows = [(row["round"], row["client"], row["oracle_queries"]) for row in oracle.ledger.rows()]
    assert rows == [(1, -1, 1), (2, -1, 1)]


@pytest.mark.parametrize("junk", ["", "\n\n\n", "1234 !!", "\x00\x00", "\ufffd" * 40, '"""'])
def test_a_summary_of_nothing_is_the_joined_text(oracle, backend, junk):
    backend.other = lambda query: OracleAnswer(text=junk)
    rule = SummaryMerge(oracle, SUMMARY, 100)
    after, _ = rule.apply(candidate_pool(["old"]), [update(0, "Be short."), update(1, "Be kind.")], NO_PROMPT)
    assert text_of(after["text"]) == "Be kind. Be short."


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (" Improved instruction: Read twice. ", "Read twice."),
        ("\n\n- Read\ntwice.\n\nCriticism: none", "Read twice."),
        ("Note: read twice.", "Note: read twice."),
        ("**Sort by tone.**", "Sort by tone."),
        ("... 12 ...", ""),
        ("Be short. Be short. Be kind.", "Be short. Be kind."),
        ("Read twice. Question: A bus drives 60 km.", "Read twice."),
        ("Question: A bus drives 60 km.", ""),
        ("on and on and on and on and on and on", ""),
        ("Much too long to be kept. Even longer, much longer.", "Much too long to be kept."),
    ],
)
def test_the_instruction_in_what_a_model_says(said, found):
    assert instruction_of(said, 30) == found
