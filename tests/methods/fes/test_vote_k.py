"""Vote-k against the toy case that can be followed by hand, and its neighbour search against the definition."""

import pytest
import torch

from promptfed.methods.fes import neighbours
from promptfed.methods.fes.neighbours import by_nearness, centred, nearest_others
from promptfed.methods.fes.vote_k import representatives, vote_k

TOY = torch.tensor([[1], [0], [1], [4], [3]])
"""0 -> 1, 1 -> 0, 2 -> 1, 3 -> 4, 4 -> 3."""


def test_the_toy_case() -> None:
    """1 has the voters 0 and 2; then 4 is voted for before 3; 0 has only the voter 1, which is picked."""
    assert vote_k(TOY, 2) == [1, 4]


def test_of_equal_sums_the_first_voted_for_wins_and_texts_without_votes_come_last() -> None:
    assert vote_k(TOY, 5) == [1, 4, 0, 3, 2]


def test_a_covered_voter_gives_a_tenth() -> None:
    """After 0 (voters 1, 2, 3), 4 has 0.1 + 0.1 from 2 and 3, and 3 has a whole vote each from 4 and 5.

    Without the tenths both would have 2, and 4 is voted for first. Then 1, 2, 4 and 5 have 0.1 each.
    """
    votes = torch.tensor([[1, 2], [0, 2], [0, 4], [0, 4], [5, 3], [1, 3]])
    assert vote_k(votes, 3) == [0, 3, 1]


def test_two_clusters_are_represented_by_one_text_each() -> None:
    angles = torch.tensor([0.0, 0.1, -0.1, 3.0, 3.1, 2.9])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    picks = representatives(embeddings, 2, neighbours=2)
    assert len({pick // 3 for pick in picks}) == 2


def test_neighbours_are_the_definition_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = torch.randn(37, 8, generator=torch.Generator().manual_seed(0))
    unit = centred(embeddings)
    assert torch.allclose(unit.norm(dim=1), torch.ones(37))
    whole = nearest_others(unit, 5)
    for row in range(37):
        others = [other for other in range(37) if other != row]
        cosines = torch.cosine_similarity(embeddings[row] - embeddings.mean(0), embeddings - embeddings.mean(0), dim=1)
        assert whole[row].tolist() == sorted(others, key=lambda other: -cosines[other].item())[:5]
    monkeypatch.setattr(neighbours, "MOST_COSINES", 100)
    assert torch.equal(nearest_others(unit, 5), whole)


def test_equal_texts_are_neighbours_of_each_other_and_few_texts_have_few_neighbours() -> None:
    unit = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    assert nearest_others(unit, 2).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]
    assert nearest_others(unit, 150).shape == (4, 3)
    assert representatives(unit[:1], 5) == [0]
    assert representatives(unit[:0], 5) == []


def test_sorting_by_mean_cosine_to_the_labelled() -> None:
    texts = torch.tensor([[0.0, 2.0], [3.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [5.0, 0.0]])
    labelled = torch.tensor([[1.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    # Mean cosines 1/3, 2/3, 1/sqrt 2, -2/3, 2/3.
    assert by_nearness(texts, labelled) == [2, 1, 4, 0, 3]
    assert by_nearness(texts, labelled[:0]) == [0, 1, 2, 3, 4]
