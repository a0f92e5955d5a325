from __future__ import annotations

import pytest
import torch

from promptfed.local_batches import BATCH, FEW_CLASSES, TEXTS_AN_EPOCH, epoch, examples_in_a_step
from promptfed.seeding import torch_stream


@pytest.mark.parametrize("examples", [1, 40, 10_000])
def test_with_few_classes_a_step_has_as_many_examples_as_ever(examples):
    assert examples_in_a_step("auto", examples, FEW_CLASSES) == BATCH


@pytest.mark.parametrize("classes", [FEW_CLASSES + 1, 500, 1_000, 20_000])
@pytest.mark.parametrize("examples", [1, 33, 1_000, 50_000])
def test_with_many_classes_an_epoch_encodes_a_bounded_number_of_texts(examples, classes):
    size = examples_in_a_step("auto", examples, classes)
    steps = -(-examples // size)
    assert size % BATCH == 0
    assert steps == 1 or steps * classes <= TEXTS_AN_EPOCH
    if size > BATCH:
        assert -(-examples // (size - BATCH)) * classes > TEXTS_AN_EPOCH or steps == 1, "no larger than need be"


def test_all_is_one_step_and_a_number_is_itself():
    assert examples_in_a_step("all", 77, 5) == 77
    assert examples_in_a_step(8, 77, 10_000) == 8


def test_parts_are_the_batches_of_the_same_order():
    steps = list(epoch(10, 6, 2, torch_stream(0, "batches")))
    order = torch.randperm(10, generator=torch_stream(0, "batches"))
    assert [[len(part) for part in parts] for parts in steps] == [[2, 2, 2], [2, 2]]
    assert torch.equal(torch.cat([part for parts in steps for part in parts]), order)


def test_a_step_may_be_larger_than_any_number_of_examples():
    [(rows,)] = epoch(4, 10**30, 10**30, torch.Generator().manual_seed(0))
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
