from __future__ import annotations

from collections import Counter
from itertools import islice

from promptfed.tasks.sources import load_source
from promptfed.tasks.sources.icons import IconItem


def test_default_source_has_shared_concepts_of_the_held_out_families() -> None:
    source = load_source("icons")
    everything = load_source("icons:phosphor,remix").classes
    assert (len(source.classes), len(everything)) == (48, 115)
    assert set(source.classes) < set(everything)
    assert source.domains == ("phosphor", "remix")
    assert set(Counter((s.label, s.domain, s.split) for s in source.samples).values()) == {60, 12}
    assert load_source("icons") == source


def test_no_rendering_is_both_trained_and_tested_and_none_occurs_twice() -> None:
    samples = load_source("icons").samples
    assert len({s.item for s in samples}) == len(samples)
    ids = {s.item.content_id() for s in islice(samples, 0, None, 7)}
    assert len(ids) == len(range(0, len(samples), 7))


def test_other_families_by_name() -> None:
    source = load_source("icons:codicons,elusive")
    assert source.domains == ("codicons", "elusive")
    assert 10 < len(source.classes) < 115


def test_an_icon_is_the_same_picture_every_time() -> None:
    item = load_source("icons").samples[0].item
    assert isinstance(item, IconItem)
    assert item.load().tobytes() == item.load().tobytes()
