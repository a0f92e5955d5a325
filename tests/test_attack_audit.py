"""What the figures of an audit come to, in a sentence."""

from __future__ import annotations

from typing import Any

from promptfed.attack_audit import UNSEEN, verdict


def membership(low: float, control: float) -> dict[str, Any]:
    score = {"trained": {"auc_interval": [low, 0.9]}, "start": {"auc": control}}
    return {"audit": "membership", "scores": {"prompt": score}}


def test_members_are_told_apart_only_beyond_chance_and_the_control() -> None:
    assert verdict(membership(0.61, 0.5)) == "members are told from others, on average: prompt"
    assert verdict({**membership(0.61, 0.5), "notes": [UNSEEN]}).endswith(
        "prompt (without the sum, which hides single updates)"
    )
    unsaid = "no score tells members from others beyond its error; stronger attacks may find more"
    assert verdict(membership(0.47, 0.5)) == verdict(membership(0.61, 0.62)) == unsaid


def test_labels_and_features_have_a_chance_of_their_own() -> None:
    labels = {"first": {"spearman_interval": [0.16, 0.45]}, "last": {"spearman_interval": [-0.1, 0.3]}}
    assert verdict({"audit": "labels", "updates": labels}) == "the order of a client's classes shows: first"
    features = {"first": {"cosine_interval": [0.76, 1.0], "cosine_by_chance": 0.39}}
    assert verdict({"audit": "inversion", "updates": features}) == "features of a single example are rebuilt: first"
    features["first"]["cosine_by_chance"] = 0.8
    assert verdict({"audit": "inversion", "updates": features}).startswith("features are rebuilt no better")
