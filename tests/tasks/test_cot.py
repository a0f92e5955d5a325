"""Questions with free answers: dealt out like texts, right by exact match."""

from __future__ import annotations

import json
import re

import pytest
import torch

from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import QuestionItem
from promptfed.examples.exact_match import final_answer
from promptfed.tasks import TASKS
from promptfed.tasks.cot import BUNDLED, DEMONSTRATIONS, CotConfig, form_for, load_questions


@pytest.fixture
def build_cot():
    def make(data=BUNDLED, partition="iid", **options):
        return TASKS["cot"].build(build_config({"task": "cot", "data": data, "partition": partition, **options}))

    return make


def test_bundled_questions_are_worked_out_right():
    samples = load_questions(BUNDLED, "question", "answer").samples
    assert len({s.item.text for s in samples}) == len(samples) == 64
    shown = [(s.item.text, s.item.answer) for s in samples] + list(DEMONSTRATIONS)
    for question, answer in shown:
        assert re.fullmatch(r"(?s)\S.*\n#### -?[0-9]+", answer), question
    assert not {question for question, _ in DEMONSTRATIONS} & {s.item.text for s in samples}
    assert all(final_answer(answer) == answer.rpartition("#### ")[2] for _, answer in shown)


def test_all_are_of_class_right_and_both_classes_may_be_said(build_cot):
    task = build_cot(clients=3)
    assert task.base_classes == ("wrong", "right")
    assert task.new_classes == ()
    for data in task.clients:
        assert data.classes == (0, 1)
        assert len(data.train)
        assert len(data.val)
        for split in (data.train, data.val, data.test):
            assert bool((split.labels == 1).all())
            assert all(isinstance(item, QuestionItem) for item in split.items)
    assert torch.equal(task.base_test.labels, torch.ones(len(task.base_test), dtype=torch.int64))


def test_nobody_holds_a_test_question(build_cot):
    task = build_cot(clients=4)
    held = {i.content_id() for data in task.clients for split in (data.train, data.val) for i in split.items}
    assert not held & {item.content_id() for item in task.base_test.items}


def test_domains_are_clients(build_cot):
    task = build_cot(partition="domain", shots=3)
    assert task.domains == ("kitchen", "school", "shop", "travel")
    assert [len(data.train) for data in task.clients] == [3] * 4
    assert sum(map(len, task.domain_tests.values())) == len(task.base_test)


def test_own_questions_with_other_names(build_cot, tmp_path):
    rows = [{"problem": f"What is {k} + 1?", "solution": f"#### {k + 1}", "id": k} for k in range(30)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows[:20])))
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows[20:])))
    names = {"question_column": "problem", "answer_column": "solution"}
    task = build_cot(f"jsonl:{tmp_path}", clients=2, task_options={**names, "test_per_class": 4})
    assert len(task.base_test) == 4
    assert task.clients[0].train.items[0].answer.startswith("####")
    with pytest.raises(
        DataError, match=r"has no column 'question'; it has problem, solution, id \(--set task.question"
    ):
        build_cot(f"jsonl:{tmp_path}", clients=2)


def test_demonstrations_stand_before_the_prompt():
    form = form_for(CotConfig(demonstrations=1, stop=("\n\n",)))
    question, answer = DEMONSTRATIONS[0]
    assert form.render("Think.", "2 + 2?") == (
        f"Question: {question}\nAnswer: {answer}\n\nThink.\nQuestion: 2 + 2?\nAnswer:"
    )
    assert form_for(CotConfig(demonstrations=0)).render("", "2 + 2?") == "Question: 2 + 2?\nAnswer:"


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ("texts:reviews", {}, "unknown bundled questions 'reviews'"),
        ("jsonl:", {}, "lacks its name or path"),
        ("folder:x", {}, "unknown source of questions 'folder'"),
        (BUNDLED, {"template": "{{ text }}"}, "must hold {{ prompt }} once"),
    ],
)
def test_what_cannot_be(build_cot, data, options, said):
    with pytest.raises(ConfigError) as error:
        build_cot(data, task_options=options)
    assert said in str(error.value)


def test_too_few_questions(build_cot, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    with pytest.raises(DataError, match="no test questions"):
        build_cot(f"jsonl:{tmp_path / 'one.jsonl'}", clients=1)
