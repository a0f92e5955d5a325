from __future__ import annotations

from dataclasses import replace
from statistics import fmean, pstdev

import pytest
import torch

from promptfed.evaluation import accuracy, evaluate, local_accuracy
from promptfed.methods.context import ContextConfig
from promptfed.methods.local_only import LocalOnly
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.types import NO_PROMPT, ClientPrompt, Split


class Fixed(PromptFL):
    """Scores that the test dictates: row i prefers the class named ``says[i]``."""

    says: tuple[str, ...] = ()

    def logits(self, shared, personal, classes, split):
        return torch.tensor([[float(name == said) for name in classes] for said in self.says[: len(split)]])


def same_for_all(method):
    return dict.fromkeys(range(3), ClientPrompt(method.init_shared()))


def test_accuracy_by_hand(setup, make_split):
    method = Fixed(PromptFLConfig(), setup)
    method.says = ("red", "green", "green", "blue")
    split = make_split(0, [0, 0, 1, 2])
    assert accuracy(method, ClientPrompt(NO_PROMPT), ("red", "green", "blue"), split) == 0.75
    assert accuracy(method, ClientPrompt(NO_PROMPT), ("red", "green", "blue"), split, among=[2, 0]) == pytest.approx(
        0.5
    ), "green is not to choose: rows 2 and 3 fall to the first candidate, blue, and are wrong"


def test_local_chooses_among_own_classes_only(setup, toy_task):
    method = PromptFL(PromptFLConfig(), setup)
    prompt = ClientPrompt(method.init_shared())
    assert local_accuracy(method, prompt, toy_task, toy_task.clients[0], "test") == 1.0, "one class cannot be missed"


def test_figures_are_the_means_they_say(setup, toy_task):
    method = LocalOnly(ContextConfig(), setup)
    prompts = {c: ClientPrompt(NO_PROMPT, (1 + 2 * (c == 1)) * method.init_personal(c)) for c in range(3)}
    found = evaluate(method, prompts, toy_task)
    local = [local_accuracy(method, prompts[c.client], toy_task, c, "test") for c in toy_task.clients]
    base = fmean(accuracy(method, p, toy_task.base_classes, toy_task.base_test) for p in prompts.values())
    figures = found.figures
    assert list(found.local.values()) == local
    assert (figures.local, figures.local_std, figures.base) == (fmean(local), pstdev(local), base)


def test_hm_is_the_harmonic_mean_of_the_three(setup, toy_task, monkeypatch):
    said = {id(toy_task.base_test): 0.25, id(toy_task.new_test): 1.0}
    monkeypatch.setattr("promptfed.evaluation.accuracy", lambda m, p, c, split, among=None: said.get(id(split), 0.5))
    method = PromptFL(PromptFLConfig(), setup)
    figures = evaluate(method, same_for_all(method), toy_task).figures
    assert (figures.local, figures.base, figures.new) == (0.5, 0.25, 1.0)
    assert figures.hm == pytest.approx(3 / (2 + 4 + 1))


def test_no_new_classes_leaves_new_and_hm_out(setup, toy_task):
    method = PromptFL(PromptFLConfig(), setup)
    task = replace(toy_task, new_classes=(), new_test=Split((), torch.zeros(0, dtype=torch.int64)))
    figures = evaluate(method, same_for_all(method), task).figures
    assert figures.new is None
    assert figures.hm is None


def test_class_text_is_encoded_once_for_each_prompt_and_class_list(setup, toy_task):
    method = PromptFL(PromptFLConfig(), setup)
    evaluate(method, same_for_all(method), toy_task)
    own = sum(len(c.classes) for c in toy_task.clients)
    assert setup.backbone.calls.texts == own + len(toy_task.base_classes) + len(toy_task.new_classes)


def test_domains_are_scored_on_base_classes(setup, toy_task, make_split):
    method = PromptFL(PromptFLConfig(), setup)
    sketch = make_split(7, [0, 1, 2, 3])
    task = replace(toy_task, domain_tests={"sketch": sketch})
    figures = evaluate(method, same_for_all(method), task).figures
    prompt = ClientPrompt(method.init_shared())
    assert figures.domains == {"sketch": accuracy(method, prompt, task.base_classes, sketch)}
