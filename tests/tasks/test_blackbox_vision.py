from __future__ import annotations

import pytest
import torch

from promptfed.blackbox.oracles.query import Candidate
from promptfed.config import build_config
from promptfed.cosines import cosine_logits
from promptfed.errors import ConfigError
from promptfed.experiment import Experiment
from promptfed.resolve import resolve
from promptfed.tasks import TASKS
from promptfed.tasks.blackbox_vision import prompts


def everything(task):
    parts = [task.base_test, task.new_test, *(s for c in task.clients for s in (c.train, c.val, c.test))]
    return [
        task.base_classes,
        task.new_classes,
        [(c.client, c.name, c.classes, c.domain) for c in task.clients],
        [([item.name for item in part.items], part.labels.tolist()) for part in parts],
        {domain: part.labels.tolist() for domain, part in task.domain_tests.items()},
    ]


def test_prompts_are_templates_that_end_in_the_class_name():
    found = prompts(["a photo of a {}.", "a {} icon", "{}", "one {}", "one {}."])
    assert found == ("a photo of a", "", "one")


@pytest.mark.parametrize("partition", ["classes", "dirichlet", "iid"])
def test_images_are_dealt_out_as_in_clip_fewshot(make_folder, partition):
    root = make_folder(dict.fromkeys(("ant", "bee", "cat", "dog"), 9))
    options = {"data": f"folder:{root}", "clients": 2, "shots": 2, "partition": partition}
    options |= {"task_options": {"val_shots": 1}}
    black, white = (TASKS[name].build(build_config(options)) for name in ("blackbox-vision", "clip-fewshot"))
    assert everything(black) == everything(white)
    assert white.form is None
    assert black.templates == black.form.prompts
    assert black.templates[0] == "a photo of a"


def test_own_templates_must_end_in_the_class_name(make_folder):
    root = make_folder(dict.fromkeys(("ant", "bee", "cat", "dog"), 9))
    options = {"data": f"folder:{root}", "clients": 2, "shots": 2}
    build = TASKS["blackbox-vision"].build
    task = build(build_config({**options, "task_options": {"val_shots": 1, "templates": ["my {}."]}}))
    assert task.form.prompts == ("my",)
    with pytest.raises(ConfigError, match=r"'a \{\} icon' ends in the class name"):
        build(build_config({**options, "task_options": {"val_shots": 1, "templates": ["a {} icon"]}}))


def test_it_is_put_to_the_bundled_backbone_if_nobody_says_otherwise():
    config = resolve(build_config({"task": "blackbox-vision"}))
    assert (config.oracle, config.data, config.partition) == ("clip:tiny", "icons", "classes")
    other = resolve(build_config({"task": "blackbox-vision", "oracle": "clip:lit", "partition": "iid"}))
    assert (other.oracle, other.partition) == ("clip:lit", "iid")


@pytest.mark.slow
def test_prompts_mean_to_the_oracle_what_templates_mean_to_the_backbone(make_folder):
    root = make_folder(dict.fromkeys(("star", "heart", "cat", "dog"), 9))
    options = {"data": f"folder:{root}", "clients": 2, "shots": 2, "task_options": {"val_shots": 1}}
    black = Experiment.build(resolve(build_config({**options, "task": "blackbox-vision"})))
    test, classes = black.task.base_test, black.task.base_classes
    found = black.setup.oracle.score([Candidate("a photo of a")], test.items, classes)[0]
    backbone = black.setup.oracle.backend.backbone
    texts = backbone.encode_text([f"a photo of a {name}." for name in classes])
    images = backbone.encode_images(torch.stack([backbone.preprocess(item.load()) for item in test.items]))
    assert (found - cosine_logits(images, texts, backbone.logit_scale)).abs().max() < 1e-4
