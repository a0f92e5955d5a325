from __future__ import annotations

from dataclasses import replace
from statistics import fmean, harmonic_mean, pstdev

import pytest
import torch

from promptfed.errors import DataError
from promptfed.evaluation import accuracy, evaluate, local_accuracy, validate
from promptfed.intervals import wilson_interval
from promptfed.methods.local_only import LocalOnly
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompts.text_context import ContextConfig
from promptfed.scoring import joined
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
    each = {c.client: local_accuracy(method, prompts[c.client], toy_task, c, "test") for c in toy_task.clients}
    everywhere = [accuracy(method, prompts[c.client], toy_task.base_classes, c.test) for c in toy_task.clients]
    base = fmean(accuracy(method, p, toy_task.base_classes, toy_task.base_test) for p in prompts.values())
    figures = found.figures
    assert [score.local for score in found.local.values()] == [None, None, each[2]], "one class cannot be missed"
    assert [score.local_all for score in found.local.values()] == everywhere
    assert (figures.local, figures.local_std, figures.base) == (each[2], 0.0, base)
    assert (figures.local_all, figures.local_all_std) == (fmean(everywhere), pstdev(everywhere))
    assert figures.one_class == (0, 1)


def test_an_example_that_clients_share_counts_once(setup, toy_task):
    """Two clients that are tested on the same three images know no more than one of them does."""
    method = PromptFL(PromptFLConfig(), setup)
    first = replace(toy_task.clients[2], client=0)
    task = replace(toy_task, clients=(first, replace(first, client=1)))
    figures = evaluate(method, {c: ClientPrompt(method.init_shared()) for c in range(2)}, task).figures
    assert figures.items["local"] == figures.items["local_all"] == len(first.test)
    assert figures.intervals["local"] == pytest.approx(wilson_interval(figures.local, len(first.test)))


def test_clients_with_one_class_are_left_out_of_local(setup, toy_task, make_split):
    """However many have one class: the mean is over the others, and absent where there are none."""
    method = PromptFL(PromptFLConfig(), setup)
    several = replace(toy_task.clients[0], classes=(0, 1), test=make_split(40, [0, 1, 1]))
    for clients, choosing in (
        (toy_task.clients, [2]),
        ((several, *toy_task.clients[1:]), [0, 2]),
        (toy_task.clients[:2], []),
        ((replace(toy_task.clients[2], client=0, classes=(3,)),), []),
    ):
        task = replace(toy_task, clients=tuple(clients))
        prompts = {c.client: ClientPrompt(method.init_shared()) for c in clients}
        found = evaluate(method, prompts, task)
        each = [local_accuracy(method, prompts[c], task, task.client(c), "test") for c in choosing]
        assert found.figures.one_class == tuple(c.client for c in clients if c.client not in choosing)
        assert found.figures.items["local"] == sum(len(task.client(c).test) for c in choosing)
        assert found.figures.local_all is not None
        if choosing:
            assert found.figures.local == fmean(each)
        else:
            assert (found.figures.local, found.figures.local_std, found.figures.hm) == (None, None, None)


def test_intervals_stand_beside_the_figures(setup, toy_task, make_split):
    method = PromptFL(PromptFLConfig(), setup)
    task = replace(toy_task, domain_tests={"sketch": make_split(7, [0, 1, 2, 3])})
    figures = evaluate(method, same_for_all(method), task).figures
    assert figures.intervals["base"] == wilson_interval(figures.base, len(toy_task.base_test))
    assert figures.intervals["new"] == wilson_interval(figures.new, len(toy_task.new_test))
    assert figures.domain_intervals == {"sketch": wilson_interval(figures.domains["sketch"], 4)}
    assert figures.intervals["local"] == wilson_interval(figures.local, figures.items["local"]), "of one client"
    low, high = figures.intervals["local_all"]
    assert low <= figures.local_all <= high
    assert figures.items == {"local": 10, "local_all": 3 + 4 + 10, "base": 20, "new": 10}


def test_hm_is_the_harmonic_mean_of_the_three(setup, toy_task, make_split):
    """Everything is said to be the first class; local 1/2, base 1/4, new 1."""
    method = Fixed(PromptFLConfig(), setup)
    task = replace(
        toy_task,
        clients=(replace(toy_task.clients[0], classes=(0, 1), test=make_split(1, [0, 1])),),
        base_test=make_split(2, [0, 1, 2, 3]),
        new_test=make_split(3, [0]),
    )
    method.says = (toy_task.base_classes[0],) * 9
    figures = evaluate(method, {0: ClientPrompt(method.init_shared())}, task).figures
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
    assert setup.backbone.calls.texts == len(toy_task.base_classes) + len(toy_task.new_classes)


def test_domains_are_scored_on_base_classes(setup, toy_task, make_split):
    method = PromptFL(PromptFLConfig(), setup)
    sketch = make_split(7, [0, 1, 2, 3])
    task = replace(toy_task, domain_tests={"sketch": sketch})
    figures = evaluate(method, same_for_all(method), task).figures
    prompt = ClientPrompt(method.init_shared())
    assert figures.domains == {"sketch": accuracy(method, prompt, task.base_classes, sketch)}


def test_a_joined_split_has_every_image_once(make_split):
    whole = make_split(3, [0, 1, 2, 3, 0])
    first, last = (Split(whole.items[a:b], whole.labels[a:b]) for a, b in ((0, 3), (2, 5)))
    everything, rows = joined([first, last])
    assert everything.items == whole.items
    assert everything.labels.tolist() == whole.labels.tolist()
    assert [r.tolist() for r in rows] == [[0, 1, 2], [2, 3, 4]]


def test_domains_cost_no_text_and_agree_with_accuracy(setup, toy_task, make_split):
    """Overlapping with the base test or not: each domain's figure is the accuracy on it, from one text encoding."""
    base = toy_task.base_test
    inside, outside = Split(base.items[:7], base.labels[:7]), make_split(55, [3, 1, 1, 0])
    task = replace(toy_task, domain_tests={"inside": inside, "outside": outside})
    method = LocalOnly(ContextConfig(), setup)
    prompts = {c: ClientPrompt(NO_PROMPT, (1 + 9 * c) * method.init_personal(c)) for c in range(3)}
    plain = evaluate(method, prompts, toy_task).figures
    texts = setup.backbone.calls.texts
    figures = evaluate(method, prompts, task).figures
    assert setup.backbone.calls.texts == 2 * texts, "as many as without domains"
    assert figures.base == plain.base
    for name, split in task.domain_tests.items():
        by_hand = fmean(accuracy(method, p, task.base_classes, split) for p in prompts.values())
        assert figures.domains[name] == pytest.approx(by_hand, abs=1e-12)


def test_validation_looks_at_no_test_image(setup, toy_task):
    method = LocalOnly(ContextConfig(), setup)
    prompts = {c: ClientPrompt(NO_PROMPT, (1 + 9 * c) * method.init_personal(c)) for c in range(3)}
    nothing = Split((), torch.zeros(0, dtype=torch.int64))
    blind = replace(
        toy_task,
        clients=tuple(replace(c, test=nothing) for c in toy_task.clients),
        base_test=nothing,
        new_test=nothing,
    )
    figures = validate(method, prompts, blind)
    assert figures == validate(method, prompts, toy_task)
    assert figures.local == local_accuracy(method, prompts[2], blind, blind.clients[2], "val"), "the others: one class"
    everyone, _ = joined([c.val for c in blind.clients])
    assert len(everyone) == sum(len(c.val) for c in blind.clients)
    assert figures.base == pytest.approx(
        fmean(accuracy(method, p, blind.base_classes, everyone) for p in prompts.values())
    )
    assert figures.hm == harmonic_mean([figures.local, figures.base])


def test_validation_needs_validation_images(setup, toy_task):
    method = PromptFL(PromptFLConfig(), setup)
    nothing = Split((), torch.zeros(0, dtype=torch.int64))
    task = replace(toy_task, clients=tuple(replace(c, val=nothing) for c in toy_task.clients))
    with pytest.raises(DataError, match="val_shots"):
        validate(method, same_for_all(method), task)
