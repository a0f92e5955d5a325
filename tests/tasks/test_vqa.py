"""Task vqa: who holds which questions, what may be answered, and a prompt against baselines that see no image."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

import promptfed as pf
from promptfed.attacks.base import adversary_of, checked_options
from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.experiment import Experiment
from promptfed.resolve import complete
from promptfed.tasks.base import TASKS
from promptfed.types import NO_PROMPT, Broadcast

from .sources.test_visual_questions import rad_row, write_rad

RAD = Path(os.environ.get("PROMPTFED_DATA", "../shared/data")) / "vqarad"
SMALL = {"images": 6, "val_images": 3, "test_images": 3}


def build(**options):
    options = {"task": "vqa", "task_options": SMALL, **options}
    return TASKS["vqa"].build(complete(build_config(options)))


@pytest.mark.parametrize(("data", "backbone"), [(None, "tiny"), ("shapes", "tiny"), ("easyvqa", "lit")])
def test_drawn_shapes_need_no_model_of_photographs(data, backbone):
    given = {"task": "vqa"} if data is None else {"task": "vqa", "data": data}
    assert complete(build_config(given)).backbone == backbone


def test_every_colour_is_a_client_and_no_image_has_two_uses():
    task = build()
    assert [client.name for client in task.clients] == ["black", "blue", "green", "red", "yellow"]
    assert task.base_classes == ("circle", "no", "rectangle", "triangle", "yes")
    for client in task.clients:
        images = [{item.image.name for item in split.items} for split in (client.train, client.val, client.test)]
        assert [len(some) for some in images] == [6, 3, 3]
        assert len(set.union(*images)) == 12
        assert all(item.image.color == client.name for item in client.train.items)
        assert all(
            task.base_classes[k] in i.candidates for i, k in zip(client.val.items, client.val.labels, strict=True)
        )
    assert len(task.base_test) == sum(len(client.test) for client in task.clients)
    again = build(seed=5)
    assert [c.train.items for c in again.clients] == [c.train.items for c in task.clients]


def test_questions_of_one_sort_alone():
    task = build(task_options={**SMALL, "questions": "yes_no"})
    assert task.base_classes == ("no", "yes")
    counts = Counter(task.clients[0].train.labels.tolist())
    assert counts[0] == counts[1] == 6


def rad_folder(path):
    rows = []
    for organ in ("HEAD", "CHEST"):
        for n in range(10):
            image = f"{organ.lower()}{n}.jpg"
            side = ("left", "right", "left")[n % 3]
            rows += [
                rad_row(image, f"Is there a mass in {n}?", ("yes", "no")[n % 2], organ),
                rad_row(image, "Which side?", side, organ, sort="POS", phrase="test_freeform"),
                rad_row(image, "What is seen?", f"finding {n}", organ, closed=False, sort="ABN"),
            ]
    return write_rad(path, rows)


def test_vqa_rad_is_split_by_image_and_answers_are_the_clients_own(tmp_path):
    task = build(data=f"vqarad:{rad_folder(tmp_path)}", task_options={"images": None, "val_images": 2})
    assert [client.name for client in task.clients] == ["chest", "head"]
    assert set(task.base_classes) == {"left", "no", "right", "yes"}
    for client in task.clients:
        images = [{item.image.path for item in split.items} for split in (client.train, client.val, client.test)]
        assert sum(map(len, images)) == len(set.union(*images)) == 10
        assert len(images[2]) == 3
        counts = Counter(
            task.base_classes[k]
            for item, k in zip(client.train.items, client.train.labels.tolist(), strict=True)
            if item.question == "Which side?"
        )
        [side] = {item.candidates for item in client.test.items if item.question == "Which side?"}
        assert list(side) == sorted(counts, key=lambda answer: (-counts[answer], answer))


def test_an_open_answer_that_no_training_image_has_counts_as_wrong(tmp_path):
    options = {"images": None, "val_images": 2, "questions": "all"}
    task = build(data=f"vqarad:{rad_folder(tmp_path)}", task_options=options)
    assert task.notes == ("6 of 18 test questions have an answer that is no candidate: they count as wrong",)
    assert not any("finding" in task.base_classes[k] for c in task.clients for k in c.val.labels.tolist())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clients": 3}, "clients=3, but the data have 5"),
        ({"method": "maple"}, "method 'maple' does not go with task 'vqa'"),
        ({"task_options": {"form": "{question}"}}, "must hold {question} and {answer} once each"),
        ({"task_options": {"templates": ["yes"]}}, "must hold {} once"),
        ({"method_options": {"class_specific": True}}, "leave out method.class_specific"),
        ({"privacy_options": {"dp": "example", "noise": 1.0}}, "leave out privacy.dp=example"),
        ({"partition": "iid"}, "partition 'iid' does not go with task 'vqa'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(options, said):
    with pytest.raises(ConfigError) as caught:
        build(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["question_only", "majority_answer"])
def test_baselines_of_questions_are_refused_elsewhere(method):
    with pytest.raises(ConfigError, match="task 'clip-fewshot' has none: use --task vqa"):
        complete(build_config({"method": method}))


def test_baselines_that_see_no_image_answer_by_the_question():
    experiment = Experiment.build(build_config({"task": "vqa", "task_options": SMALL}))
    client, classes = experiment.task.clients[0], experiment.task.base_classes
    figures = {}
    for name in ("majority_answer", "question_only"):
        method = experiment.method(name)
        _, memory = method.train(Broadcast(1, NO_PROMPT), client, NO_PROMPT)
        figures[name] = method.logits(NO_PROMPT, memory, classes, client.test)
    train = [(item.question, classes[k]) for item, k in zip(client.train.items, client.train.labels, strict=True)]
    for k, item in enumerate(client.test.items):
        assert classes[int(figures["majority_answer"][k].argmax())] == item.candidates[0]
        alike = Counter(answer for question, answer in train if question == item.question)
        best = {answer for answer, count in alike.items() if count == max(alike.values())}
        if len(best) == 1:
            assert classes[int(figures["question_only"][k].argmax())] in best
    stranger = experiment.method("question_only").logits(NO_PROMPT, NO_PROMPT, classes, client.test)
    assert bool((stranger.max(1).values == stranger.topk(2).values[:, 1]).all()), "it has no reason for any answer"


@pytest.mark.slow
def test_a_prompt_that_sees_the_image_answers_yes_and_no_better_than_the_question_alone(tmp_path):
    run = pf.train(
        task="vqa", task_options={"questions": "yes_no"}, rounds=16, baselines=("majority_answer", "question_only"),
        folder=tmp_path / "run", progress=False,
    )  # fmt: skip
    blind = max(run.metrics[name]["base"] for name in ("majority_answer", "question_only"))
    assert run.metrics["method"]["base"] >= blind + 0.1


@pytest.mark.skipif(not RAD.is_dir(), reason="PROMPTFED_DATA has no vqarad")
def test_vqa_rad_as_it_is_published():
    task = build(data=f"vqarad:{RAD}", task_options={"images": None, "test_images": None})
    assert [client.name for client in task.clients] == ["abd", "chest", "head"]
    assert {"yes", "no"} <= set(task.base_classes)
    assert 1200 < sum(len(c.train) + len(c.val) + len(c.test) for c in task.clients) <= 1299


def test_flipped_answers_turn_yes_into_no():
    experiment = Experiment.build(
        complete(build_config({"task": "vqa", "task_options": {**SMALL, "questions": "yes_no"}, "method": "promptfl"}))
    )
    task = experiment.task
    adversary = adversary_of(checked_options({"name": "labelflip", "malicious": 0.2}), experiment.method(), task)
    (client,) = adversary.clients
    data = next(each for each in task.clients if each.client == client)
    false = adversary.data(data, 1).train
    names = [(task.base_classes[y], task.base_classes[z]) for y, z in zip(data.train.labels, false.labels, strict=True)]
    assert {*names} == {("yes", "no"), ("no", "yes")}


@pytest.mark.slow
def test_two_liars_of_five_cost_fedavg_much_reported_some_and_cross_nothing(tmp_path):
    def honest(name, **options):
        run = pf.train(
            task="vqa", backbone="tiny", baselines=("zero_shot",), folder=tmp_path / name, progress=False, **options
        )
        (told,) = (e for e in run.events if e["event"] == "evaluation" and e["stage"] != "zero_shot")
        return {each["client"]: each["accuracy"] for each in told["local"]}

    def loss(name, claim, **options):
        flips = {"name": "labelflip", "malicious": 0.4, **claim}
        clean, attacked = honest(f"{name}-clean", **options), honest(name, **options, attack_options=flips)
        return 100 * sum(clean[c] - attacked[c] for c in (0, 3, 4)) / 3  # of seed 0 clients 1 and 2 lie

    mean = loss("mean", {}, method="promptfl")
    reported, cross = (
        loss(each, {"claim": 1.0}, aggregator_options={"reliability": each}) for each in ("reported", "cross")
    )
    assert mean >= 3
    assert cross <= 1
    assert reported >= cross + 1
