"""Answers on clients' own examples, by hand: their counts, and which of them are looked at."""

import pytest
import torch

from promptfed.examples.base import TextItem
from promptfed.own_answers import OwnAnswers
from promptfed.types import Split


def split(*labels: int) -> Split:
    return Split(tuple(TextItem(f"text {k}") for k in range(len(labels))), torch.tensor(labels))


def answers() -> OwnAnswers:
    found = OwnAnswers(3)
    log = torch.log
    found.add(4, split(0, 1, 1), log(torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.05, 0.9, 0.05]])))
    found.add(2, split(2, 2), torch.tensor([[torch.nan] * 3, [0.0, 0.0, 9.0]]))
    return found


def test_counts_are_pooled_over_clients_and_no_answer_is_minus_one() -> None:
    assert answers().counts() == [(0, 0, 1), (1, 0, 1), (1, 1, 1), (2, -1, 1), (2, 2, 1)]
    assert len(answers()) == 5
    assert OwnAnswers(3).counts() == []


def test_the_surest_errors_come_first_and_half_are_right() -> None:
    chosen = answers().chosen(4)
    assert [(a.client, a.place, a.truth, a.prediction) for a in chosen[:2]] == [(4, 1, 1, 0), (2, 0, 2, -1)]
    assert chosen[0].confidence == pytest.approx(0.6)
    assert chosen[0].of_truth == pytest.approx(0.3)
    assert chosen[1].confidence == 0
    assert [a.is_right for a in chosen] == [False, False, True, True]
    assert answers().chosen(0) == OwnAnswers(3).chosen(5) == []


def test_every_confusion_has_its_turn_before_one_comes_twice() -> None:
    found = OwnAnswers(3)
    scores = torch.tensor([[9.0, 0, 0], [8.0, 0, 0], [7.0, 0, 0], [0, 0, 1.0]])
    found.add(0, split(1, 1, 1, 1), scores)
    assert [a.place for a in found.chosen(2)] == [0, 3]
    assert [a.place for a in found.chosen(4)] == [0, 3, 1, 2]


def test_columns_behind_the_classes_are_no_scores() -> None:
    found = OwnAnswers(2)
    found.add(0, split(1), torch.tensor([[0.0, 1.0, 50.0, 60.0]]))
    assert found.counts() == [(1, 1, 1)]
