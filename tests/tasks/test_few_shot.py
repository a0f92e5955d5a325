from __future__ import annotations

from pathlib import Path

import pytest

from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import FileItem, Sample
from promptfed.tasks import few_shot
from promptfed.tasks.sources.base import Source


def make_source(counts: dict[str, int], split: str = "", domains: tuple[str, ...] = ("",)) -> Source:
    samples = [
        Sample(FileItem(Path(f"{name}-{domain}-{i}")), label, domain, split)
        for label, (name, count) in enumerate(counts.items())
        for domain in domains
        for i in range(count)
    ]
    return Source("made", tuple(counts), tuple(samples))


@pytest.mark.parametrize(
    ("classes", "fraction", "base"),
    [(4, 0.5, 2), (7, 0.5, 4), (10, 0.3, 3), (115, 0.5, 58), (10, 1.0, 10), (3, 0.5, 3), (2, 0.5, 2), (10, 0.9, 10)],
)
def test_base_count_is_the_rounded_up_share_and_leaves_two_classes_on_each_side(
    classes: int, fraction: float, base: int
) -> None:
    assert few_shot.base_count(make_source({f"c{i}": 1 for i in range(classes)}), fraction) == base


def test_pools_set_the_fixed_share_of_each_class_and_domain_aside() -> None:
    source = make_source({"cat": 10, "dog": 5}, domains=("x", "y"))
    found = few_shot.pools(source, 0.4, seed=0)
    assert sorted(found.train + found.test) == list(range(30))
    for label, domain, count in [(0, "x", 4), (0, "y", 4), (1, "x", 2), (1, "y", 2)]:
        inside = [i for i in found.test if (source.samples[i].label, source.samples[i].domain) == (label, domain)]
        assert len(inside) == count
    assert found == few_shot.pools(source, 0.4, seed=0)
    assert found != few_shot.pools(source, 0.4, seed=1)


def test_pools_without_test_split_take_it_from_train() -> None:
    found = few_shot.pools(make_source({"cat": 10, "dog": 10}, split="train"), 0.4, seed=0)
    assert (len(found.train), len(found.test)) == (12, 8)


def test_exact_draw_is_disjoint_and_more_shots_keep_the_others() -> None:
    source = make_source({"cat": 12, "dog": 12})
    few = few_shot.draw_exactly(source, range(24), [], 2, 4, seed=3, client="c")
    more = few_shot.draw_exactly(source, range(24), [], 8, 4, seed=3, client="c")
    assert len(few.train) == 4
    assert len(more.train) == 16
    assert set(few.train) < set(more.train)
    assert few.val == more.val
    assert not set(more.train) & set(more.val)


def test_validation_comes_from_its_own_split_where_there_is_one() -> None:
    source = make_source({"cat": 12})
    drawn = few_shot.draw_exactly(source, range(8), range(8, 12), 8, 2, seed=0, client="c")
    assert sorted(drawn.train) == list(range(8))
    assert set(drawn.val) < {8, 9, 10, 11}
    assert len(drawn.val) == 2


def test_fewer_images_than_shots_names_class_count_and_fix() -> None:
    source = make_source({"cat": 12, "sea lion": 9})
    with pytest.raises(DataError, match=r"class 'sea lion' has 9 training images, fewer than .*= 12: use --shots 5 or"):
        few_shot.draw_exactly(source, range(21), [], 8, 4, seed=0, client="c")
    with pytest.raises(DataError, match=r"class 'cat' has 3 training images.*add images"):
        few_shot.draw_exactly(source, range(3), [], 8, 4, seed=0, client="c")


def test_loose_draw_shrinks_both_kinds_alike_and_keeps_one_of_each() -> None:
    source = make_source({"cat": 6, "dog": 2})
    drawn = few_shot.draw_at_most(source, range(8), [], 8, 4, seed=0, client="c")
    assert len([i for i in drawn.train if i < 6]) == 4
    assert len([i for i in drawn.val if i < 6]) == 2
    assert len([i for i in drawn.train if i >= 6]) == 2
    small = few_shot.draw_at_most(source, [6, 7], [], 8, 4, seed=0, client="c")
    assert (len(small.train), len(small.val)) == (1, 1)
    single = few_shot.draw_at_most(source, [0, 6], [], 8, 4, seed=0, client="c")
    assert (len(single.train), len(single.val)) == (2, 0)  # validating on a class never learned says nothing
    with pytest.raises(DataError, match="nobody has no training image"):
        few_shot.draw_at_most(source, [], [], 8, 4, seed=0, client="nobody")


def test_test_cap_is_spread_over_domains() -> None:
    source = make_source({"cat": 10, "dog": 3}, domains=("x", "y"))
    kept = few_shot.capped(source, range(26), 6, seed=0)
    assert len([i for i in kept if source.samples[i].label == 0 and source.samples[i].domain == "x"]) == 3
    assert len([i for i in kept if source.samples[i].label == 0 and source.samples[i].domain == "y"]) == 3
    assert len([i for i in kept if source.samples[i].label == 1]) == 6


@pytest.mark.parametrize(
    ("classes", "fraction", "most"), [(100, 0.001, "0.98"), (10, 0.05, "0.8"), (4, 0.1, "0.5"), (7, 0.1, "0.71")]
)
def test_holding_out_nearly_all_classes_does_not_train_all(classes: int, fraction: float, most: str) -> None:
    source = make_source({f"c{i}": 1 for i in range(classes)})
    with pytest.raises(
        ConfigError, match=f"leaves 1 of {classes} classes to train on.* use --hold-out-classes {most} or"
    ):
        few_shot.base_count(source, fraction)
    assert few_shot.base_count(source, 1 - float(most)) >= 2
