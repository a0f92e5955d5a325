"""The choice of what to share is the one with the fewest tokens, worked out by hand."""

from __future__ import annotations

from promptfed.blackbox.oracles.local.prefix_plan import OVERHEAD, Grouping, choose


def rows_of(prompts: list[str], texts: list[str]) -> tuple[list[list[str]], list[str], list[str]]:
    pairs = [(prompt, text) for prompt in prompts for text in texts]
    return [[*prompt, *text, "?"] for prompt, text in pairs], [p for p, _ in pairs], [t for _, t in pairs]


def test_a_group_shares_what_all_its_rows_begin_with_but_never_a_whole_row():
    grouping = Grouping.of(["abcd", "abxx", "ab", "qr"], [7, 7, 7, 8])
    assert grouping.group == [0, 0, 0, 1]
    assert grouping.lengths == [1, 1]
    assert Grouping.of(["abcd", "abcd"], [0, 0]).lengths == [3]
    assert Grouping.of(["abcdefg", "abcq", "abcr"], [0, 1, 1]).lengths == [3, 3]


def test_prompts_are_read_once_and_what_all_begin_with_before_them():
    """20 letters before all, then 30 of each of 4 prompts, then 1 or 2 of each of 5 texts and the end."""
    lead = "l" * 20
    prompts = [lead + letter * 30 for letter in "abcd"]
    texts = ["v", "w", "x", "yy", "zz"]
    rows, by_prompt, by_text = rows_of(prompts, texts)
    outer, inner = choose(rows, [by_prompt, by_text])
    assert outer is not None
    assert outer.lengths == [20]
    assert inner.lengths == [50] * 4
    assert inner.cost(rows, outer) == 20 + 4 * 30 + 4 * (1 + 1 + 1 + 2 + 2 + 5) + 2 * OVERHEAD
    assert inner.cost(rows, None) == 4 * 50 + 48 + OVERHEAD


def test_texts_are_read_once_where_they_come_first():
    rows, by_text, by_prompt = rows_of(["a" * 30, "b" * 25], ["u", "v", "w"])
    outer, inner = choose(rows, [by_prompt, by_text])
    assert outer is None
    assert inner.lengths == [30, 25]
    assert inner.group == [0, 0, 0, 1, 1, 1]


def test_little_to_share_is_not_worth_it():
    assert choose([["a", "b", "c"]], [[0], [0]]) is None
    rows, by_prompt, by_text = rows_of(["a", "b"], ["u" * 40, "v" * 40])
    assert choose(rows, [by_prompt, by_text]) is None
