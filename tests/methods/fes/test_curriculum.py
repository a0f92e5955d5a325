"""Counts of pseudo-labels by hand."""

from promptfed.methods.fes.curriculum import confident, last_labelling, pseudo_label_count


def test_curriculum_counts() -> None:
    """Ten percent of 87 texts more each round, rounded down, up to all of them."""
    counts = [pseudo_label_count("curriculum", 10, 87, finished) for finished in (0, 1, 2, 3, 9, 10, 11)]
    assert counts == [0, 8, 17, 26, 78, 87, 87]
    # 0.29 * 100 is less than 29 in floating point: the product is taken in whole numbers.
    assert pseudo_label_count("curriculum", 29, 100, 1) == 29
    assert [pseudo_label_count("curriculum", 20, 50, finished, every=2) for finished in (2, 4, 6)] == [10, 20, 30]


def test_fixed_counts() -> None:
    assert [pseudo_label_count("fixed", 100, pool, 3) for pool in (40, 100, 250)] == [40, 100, 100]
    assert pseudo_label_count("fixed", 100, 250, 0) == 0


def test_labelling_happens_every_so_many_rounds() -> None:
    assert [last_labelling(round, 3) for round in range(1, 8)] == [1, 1, 1, 4, 4, 4, 7]
    assert [last_labelling(round, 1) for round in (1, 2, 3)] == [1, 2, 3]


def test_the_most_confident_above_the_threshold() -> None:
    top, labels = [0.6, 0.9, 0.5, 0.9, 0.7], [0, 0, 1, 0, 1]
    assert confident(top, labels, 3, 0.0) == [1, 3, 4]
    assert confident(top, labels, 9, 0.6) == [1, 3, 4]
    assert confident(top, labels, 9, 0.9) == []


def test_no_more_of_one_class_than_its_share() -> None:
    top, labels = [0.6, 0.9, 0.5, 0.9, 0.7], [0, 0, 1, 0, 1]
    assert confident(top, labels, 4, 0.0, most=2) == [1, 3, 4, 2]
    assert confident(top, labels, 4, 0.0, most=1) == [1, 4]
    assert confident([0.9, 0.8, 0.7], [0, 0, 0], 2, 0.0, most=1) == [0]
