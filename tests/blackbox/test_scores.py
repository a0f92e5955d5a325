"""What scores say where some examples were not answered."""

from __future__ import annotations

import math

import pytest
import torch

from promptfed.blackbox.oracles.query import Candidate
from promptfed.build_method import build_method
from promptfed.evaluation import top1_accuracy
from promptfed.examples.base import TextItem
from promptfed.scores import as_if_uniform, is_answered, predicted
from promptfed.types import Split

NAN = float("nan")
SCORES = torch.tensor([[1.0, 2.0], [NAN, NAN], [3.0, 0.0], [NAN, 1.0]])


def test_no_class_is_predicted_without_an_answer():
    assert is_answered(SCORES).tolist() == [True, False, True, False]
    assert predicted(SCORES).tolist() == [1, -1, 0, -1]
    assert as_if_uniform(SCORES).tolist() == [[1, 2], [0, 0], [3, 0], [0, 0]]
    assert predicted(SCORES.expand(3, 4, 2)).shape == (3, 4)


@pytest.mark.parametrize("labels", [[1, 0, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]])
def test_no_answer_is_never_right(labels):
    split = Split(tuple(TextItem(f"text {k}") for k in range(len(labels))), torch.tensor(labels))
    expected = sum(int(k in (0, 2) and label == (1, 1, 0, 1)[k]) for k, label in enumerate(labels)) / 4
    assert top1_accuracy(SCORES, torch.tensor([0, 1]), split) == expected
    assert top1_accuracy(SCORES, torch.tensor([5, 7]), Split(split.items, torch.tensor([7, 7, 5, 7]))) == 0.5


@pytest.mark.parametrize("loss", ["cross_entropy", "hinge", "accuracy"])
def test_silence_costs_as_much_as_the_worst_answer(black_setup, loss):
    method = build_method("bbt", {"loss": loss, "dim": 4, "n_tokens": 2}, black_setup)
    labels = torch.tensor([0, 0, 1, 1])
    losses = method.sample_losses(SCORES, labels)
    assert torch.isfinite(losses).all()
    assert losses[1] == losses[3] == losses.max()
    nothing = method.sample_losses(torch.full((4, 2), NAN), labels)
    assert (nothing == nothing[0]).all()
    if loss == "cross_entropy":
        assert nothing[0].item() == pytest.approx(math.log(2))


def test_a_model_in_this_process_whose_scores_are_no_numbers_does_not_answer(black_setup, oracle, backend, text_split):
    plain = backend.scores
    backend.scores = lambda queries: torch.where(
        torch.tensor([["broken" in query.item.text] for query in queries]), torch.nan, plain(queries)
    )
    found = oracle.score([Candidate()], text_split("hot: fire", "hot: broken", "cold: ice").items, ("cold", "hot"))[0]
    assert predicted(found).tolist() == [1, -1, 0]
    assert oracle.usage().oracle_unanswered == 1
