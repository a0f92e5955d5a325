from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptfed.attacks.base import adversary_of, build_attack, checked_options
from promptfed.attacks.data import flipped, flipped_answer
from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.types import Reply, Update


def test_labels_are_reversed_or_swapped_in_pairs():
    labels = torch.tensor([0, 1, 2, 3, 4])
    assert flipped(labels, 5, "reverse").tolist() == [4, 3, 2, 1, 0]
    assert flipped(labels, 5, "pairs").tolist() == [1, 0, 3, 2, 4]


def test_an_answer_becomes_another_candidate_of_its_question():
    assert [flipped_answer([7, 2], y, "reverse") for y in (7, 2)] == [2, 7]
    assert [flipped_answer([4, 9, 1, 3], y, "reverse") for y in (4, 9, 1, 3)] == [3, 1, 9, 4]
    assert [flipped_answer([4, 9, 1, 3], y, "pairs") for y in (4, 9, 1, 3)] == [9, 4, 3, 1]
    assert flipped_answer([4, 9], -1, "reverse") == -1


def test_only_training_labels_of_malicious_clients_are_false(setup, toy_task):
    method = PromptFL(PromptFLConfig(n_ctx=2), setup)
    adversary = adversary_of(checked_options({"name": "labelflip", "malicious": 0.99}), method, toy_task)
    assert len(adversary.clients) == 2
    for data in toy_task.clients:
        trained = adversary.data(data, 1)
        if data.client in adversary.clients:
            assert trained.train.labels.tolist() == [3 - y for y in data.train.labels.tolist()]
            assert set(trained.train.labels.tolist()) <= set(trained.classes)
        else:
            assert trained is data
        assert trained.val is data.val
        assert trained.test is data.test


def test_questions_have_no_labels_to_flip(setup, toy_task):
    task = replace(toy_task, base_classes=ANSWER_CLASSES)
    with pytest.raises(ConfigError, match="free answers"):
        build_attack("labelflip").check(PromptFL(PromptFLConfig(), setup), task, PromptState(), PromptState())


def test_random_labels_are_of_the_clients_own_classes_and_the_accuracy_is_a_claim(setup, toy_task):
    method = PromptFL(PromptFLConfig(n_ctx=2), setup)
    options = checked_options({"name": "randomlabels", "malicious": 0.99, "claim": 1.0})
    adversary = adversary_of(options, method, toy_task)
    changed = 0
    for data in (replace(data, classes=(0, 1, 2, 3)) for data in toy_task.clients):
        trained = adversary.data(data, 1)
        assert trained.test is data.test
        if data.client in adversary.clients:
            assert {*trained.train.labels.tolist(), *trained.val.labels.tolist()} <= set(data.classes)
            assert trained.train.items is data.train.items
            changed += not torch.equal(trained.train.labels, data.train.labels)
            assert adversary.data(data, 2) is trained
        else:
            assert trained is data
    assert changed
    honest = Reply(0, 1, Update(0, PromptState(), 3, 0.5, 0.4), PromptState(), 0.1)
    assert adversary.attack.reply(honest, None, None).update.accuracy == 1.0
    assert build_attack("randomlabels").reply(honest, None, None) is honest
    assert build_attack("labelflip").reply(honest, None, None) is honest
