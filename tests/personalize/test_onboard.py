"""Somebody who never took part: own classes or the run's, a prompt, an alpha, a bundle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptfed.errors import ConfigError, DataError
from promptfed.evaluation import accuracy
from promptfed.examples.base import Sample
from promptfed.export.bundle import read_bundle, write_bundle
from promptfed.personalize.onboard import newcomer_data, onboard
from promptfed.personalize.options import OnboardOptions
from promptfed.prompt_state import PromptState
from promptfed.tasks.sources.base import Source

QUICK = OnboardOptions(lr=0.05, epochs=3, shots=3, val_shots=2)


@pytest.fixture
def source(make_split):
    """``source(["teal", "red"], [5, 0])``: 12 dots for each name in the colour of that number."""

    def make(names, colours, each=12):
        order = sorted(range(len(names)), key=names.__getitem__)
        samples = []
        for label, place in enumerate(order):
            items = make_split(300 + place, [colours[place]] * each).items
            samples += [Sample(item, label) for item in items]
        return Source("dots", tuple(names[place] for place in order), tuple(samples))

    return make


def test_new_classes_are_the_newcomers_own(finish, source, tmp_path):
    finished = finish()
    found = onboard(finished, source(["teal", "plum"], [5, 4]), "late house", QUICK)
    meta = found.bundle.meta
    assert (meta.client, meta.client_name, meta.classes) == (3, "late house", ("plum", "teal"))
    assert found.bundle.shared == finished.state.shared
    assert found.bundle.tuned.mismatch(found.bundle.shared) is None
    assert found.bundle.tuned != found.bundle.shared
    assert found.alphas[found.val.index(max(found.val))] == meta.alpha, "the first, so the smallest, of the best"
    back = read_bundle(write_bundle(tmp_path / "b", found.bundle))
    assert back.prompt == found.bundle.prompt
    names, split = list(meta.classes), found.data.test
    assert found.deployed == accuracy(finished.method, back.prompt, names, split)
    assert found.shared == accuracy(finished.method, finished.prompt(None), names, split)
    assert found.test[0] == found.shared


def test_few_shots_and_no_image_twice(finish, source):
    data = newcomer_data(finish(), source(["teal", "plum"], [5, 4]), ("plum", "teal"), 3, "x", QUICK)
    # 12 images a class: 5 (40 %) to test, 3 to train, 2 to validate
    assert (len(data.train), len(data.val), len(data.test)) == (6, 4, 10)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    everything = [item for split in (data.train, data.val, data.test) for item in split.items]
    assert len({id(item) for item in everything}) == 20
    again = newcomer_data(finish(rounds=1), source(["teal", "plum"], [5, 4]), ("plum", "teal"), 3, "x", QUICK)
    assert [i.content_id() for i in again.train.items] == [i.content_id() for i in data.train.items]


def test_the_runs_shots_are_the_default(finish, source):
    data = newcomer_data(finish(), source(["teal", "plum"], [5, 4], 30), ("plum", "teal"), 3, "x", OnboardOptions())
    assert (len(data.train), len(data.val)) == (6, 8), "3 shots of the run, the task's 4 validation shots"


def test_classes_of_the_run_in_another_order(finish, source, toy_task):
    found = onboard(finish(), source(["green", "blue"], [1, 2]), "y", QUICK)
    assert found.bundle.meta.classes == ("blue", "green")
    assert found.data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_prompt_for_each_class_stays_with_the_runs_classes(finish, source, toy_task):
    finished = finish(class_specific=True)
    found = onboard(finished, source(["green", "blue"], [1, 2]), "y", QUICK)
    assert found.bundle.meta.classes == toy_task.base_classes
    assert found.data.classes == (1, 2)
    assert found.data.train.labels.tolist() == [2, 2, 2, 1, 1, 1], "blue comes first in the source"
    images = torch.stack([finished.method.setup.features.images(found.data.train).mean(0)])
    assert images.isfinite().all()
    with pytest.raises(ConfigError, match="'teal' is none of them"):
        onboard(finished, source(["green", "teal"], [1, 5]), "y", QUICK)


def test_a_method_with_a_personal_part_gives_the_newcomer_one(finish, source):
    finished = finish("promptfolio")
    found = onboard(finished, source(["teal", "plum"], [5, 4]), "z", QUICK)
    assert found.bundle.personal.mismatch(finished.state.personal[0]) is None
    assert all(found.bundle.personal != personal for personal in finished.state.personal.values())
    assert len(found.bundle.tuned) == 0
    assert found.bundle.shared == finished.state.shared, "nothing of the newcomer's enters the shared prompt"


def test_none_takes_the_shared_prompt_as_it_is(finish, source):
    finished = finish()
    found = onboard(finished, source(["teal", "plum"], [5, 4]), "z", replace_method(QUICK, "none"))
    assert (found.bundle.meta.alpha, len(found.bundle.tuned), len(found.bundle.personal)) == (0.0, 0, 0)
    assert found.deployed == found.shared


def replace_method(options, method):
    return options.model_copy(update={"method": method})


def test_methods_that_know_only_the_runs_domains_say_what_to_do(finish, source):
    finished = finish("fedapt", class_specific=False)
    dots = source(["teal", "plum"], [5, 4])
    with pytest.raises(ConfigError, match=r"client 3 has no domain.*--method none"):
        onboard(finished, dots, "z", QUICK)
    assert onboard(finished, dots, "z", replace_method(QUICK, "none")).bundle.prompt.shared == finished.state.shared


def test_neither_order_nor_number_of_the_runs_clients_matters(finish, source):
    finished, dots = finish(), source(["teal", "plum"], [5, 4])
    reversed_names = dict(reversed(finished.names.items()))
    one, other = (onboard(f, dots, "w", QUICK) for f in (finished, replace(finished, names=reversed_names)))
    assert one.bundle.tuned == other.bundle.tuned
    assert isinstance(one.bundle.tuned, PromptState)


def test_too_few_images(finish, source):
    lone = source(["teal", "plum"], [5, 4], each=1)
    found = onboard(finish(), lone, "z", QUICK)
    assert (len(found.data.train), len(found.data.test)) == (2, 0)
    assert found.deployed is None
    assert "no validation images" in found.bundle.meta.chosen
    with pytest.raises(DataError, match="no training image"):
        onboard(finish(rounds=1), Source("none", ("a", "b"), ()), "z", QUICK)


def test_pfedpg_fits_a_descriptor_and_leaves_the_hyper_network_alone(finish, source):
    finished = finish("pfedpg", side="text")
    phi = PromptState(dict(finished.state.shared))
    found = onboard(finished, source(["teal", "plum"], [5, 4]), "late house", QUICK)
    assert finished.state.shared == phi
    offset = found.bundle.tuned["ctx"] - phi["base"]
    torch.testing.assert_close(offset[0], offset[1], msg="what the generator can make: one offset for all tokens")
    assert found.bundle.tuned != finished.prompt(None).shared


@pytest.mark.parametrize(("name", "colour"), [("teal", 5), ("plum", 4), ("green", 1)])
def test_a_newcomer_with_one_class_is_judged_among_all_classes(finish, source, name, colour):
    finished = finish()
    found = onboard(finished, source([name], [colour]), "z", QUICK)
    known = finished.method.setup.classes
    assert found.judged == (name, *(other for other in known if other != name))
    classes = list(found.judged)
    assert found.shared == accuracy(finished.method, finished.prompt(None), classes, found.data.test)
    assert found.deployed == accuracy(finished.method, found.bundle.prompt, classes, found.data.test)
    figures = found.figures()
    assert (figures["one_class"], figures["judged_among"]) == (True, classes)
    assert figures["curve"]["test"][0] == figures["shared"]
    assert "one class;" in str(found.table().caption)
    assert f"among all {len(classes)} classes, the run's and its own" in str(found.table().caption)
    assert found.bundle.meta.classes == (name,), "it takes home what it has"


def test_one_class_of_a_method_with_a_prompt_for_each_is_judged_among_those(finish, source, toy_task):
    found = onboard(finish(class_specific=True), source(["green"], [1]), "z", QUICK)
    assert found.judged == toy_task.base_classes
    assert found.one_class


def test_two_classes_are_judged_among_themselves(finish, source):
    found = onboard(finish(), source(["teal", "plum"], [5, 4]), "z", QUICK)
    assert (found.one_class, found.judged) == (False, ("plum", "teal"))
    assert "nothing to choose" not in str(found.table().caption)
    assert found.figures()["one_class"] is False
