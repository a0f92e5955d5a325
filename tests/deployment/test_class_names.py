"""One spelling of each class at all sites, or a question to the people there."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from promptfed.deployment.class_names import agreed_names, joined_classes, lonely_classes, split_names
from promptfed.errors import DeploymentError


@pytest.mark.parametrize(
    ("one", "other"),
    [("cat", "Cat"), ("red panda", "red_panda"), ("red  panda", "Red_Panda"), ("straße", "STRASSE"), ("a b", "a B ")],
)
def test_names_that_differ_in_spelling_only_are_asked_about(one, other):
    held = {"siteA": [one, "dog"], "siteB": [other, "dog"]}
    with pytest.raises(DeploymentError) as asked:
        joined_classes(held, merge=False)
    for part in ("siteA", "siteB", f"'{one}'", f"'{other}'", "classes.csv", "merge-classes=true"):
        assert part in str(asked.value)
    merged = joined_classes({**held, "siteC": [one]}, merge=True)
    assert merged == tuple(sorted([one, "dog"])), "as most sites call it"
    assert agreed_names([other], merged, merged=True) == {other: one}
    assert agreed_names([other], merged, merged=False) == {other: None}


def test_names_that_are_spelt_alike_are_one_class():
    assert joined_classes({"a": ["cat", "dog"], "b": ["dog", "eel"]}, merge=False) == ("cat", "dog", "eel")


def test_a_class_of_one_site_alone_is_pointed_out():
    assert lonely_classes({"a": ["cat", "dog"], "b": ["dog"]}) == ["only a has class 'cat' (is it spelt as elsewhere?)"]
    assert lonely_classes({"a": ["cat"]}) == []
    assert lonely_classes({"a": ["cat"], "b": ["Cat"]}) == []


def test_lists_with_commas():
    assert split_names(" cat, red panda,,") == ("cat", "red panda")


def test_many_names_are_no_matter_of_seconds():
    held = {f"site {k}": [f"class {k} {n}" for n in range(10_000)] for k in range(3)}
    names = joined_classes(held, merge=False)
    assert len(names) == 30_000
    assert None not in agreed_names(held["site 0"], names, merged=True).values()
