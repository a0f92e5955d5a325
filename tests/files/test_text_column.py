import numpy as np

from promptfed.files.text_column import are_ends, packed_text, packed_texts


def test_texts_come_back_whatever_they_hold() -> None:
    texts = ["client 0", "", "naïve ✓", "a\nb", "\udc80"]
    content, ends = packed_texts(texts)
    assert [packed_text(content, ends, k) for k in range(len(texts))] == texts
    assert are_ends(ends, len(texts), len(content))


def test_ends_rise_from_nothing_to_all() -> None:
    assert are_ends(np.array([0, 0, 3]), 2, 3)
    assert not any(are_ends(np.array(ends), 2, 3) for ends in ([0, 4, 3], [1, 2, 3], [0, 2, 4], [0, 3]))
