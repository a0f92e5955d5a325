from __future__ import annotations

import numpy as np

from promptfed.blackbox.methods.fedbpt.corruption import perturbed, public_words


def test_words_are_replaced_at_the_rate_and_labels_stay(text_split):
    split = text_split("hot: " + " ".join(["zzz"] * 2000), "cold: zzz zzz")
    found = perturbed(split, 0.5, np.random.default_rng(0))
    words = found.items[0].text.split()
    assert len(words) == 2000
    assert abs(sum(word == "zzz" for word in words) - 1000) < 100
    assert {word for word in words if word != "zzz"} <= set(public_words())
    assert found.labels.tolist() == split.labels.tolist()


def test_rate_zero_changes_nothing_and_one_everything(text_split):
    split = text_split("hot: zzz yyy")
    assert perturbed(split, 0.0, np.random.default_rng(0)).items[0].text == "zzz yyy"
    assert not {"zzz", "yyy"} & set(perturbed(split, 1.0, np.random.default_rng(0)).items[0].text.split())
