"""Which label an answer names."""

from __future__ import annotations

import pytest

from promptfed.blackbox.oracles.remote.label_scoring import chosen


@pytest.mark.parametrize(
    ("said", "words", "index"),
    [
        ("这条评论是正面的", ("负面", "正面"), 1),
        ("我认为是负面", ("正面", "负面"), 1),
        ("客户不满意", ("满意", "不满意"), 1),
        ("รีวิวนี้เป็นเชิงลบ", ("เชิงบวก", "เชิงลบ"), 1),
        ("肯定的ではなく否定的", ("否定的", "肯定的"), 1),
        ("Positive, not negative", ("negative", "positive"), 1),
        ("very good indeed", ("good", "very good"), 1),
        ("unhappy", ("happy", "sad"), None),
        ("我不知道", ("正面", "负面"), None),
        ("", ("a", "b"), None),
    ],
)
def test_the_label_that_is_named_first_counts(said, words, index):
    assert chosen(said, words) == index
