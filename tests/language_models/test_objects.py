"""A language model of a Python program: trained on, loaded again, and refused where it is nothing of the kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import T5Model

import promptfed as pf
from promptfed.language_models.model import LanguageModel
from promptfed.language_models.objects import language_model_of

from ..tiny_language_models import LABELS, TEXTS, tokenizer, transformer

SMALL: dict[str, Any] = {
    "rounds": 1, "shots": 2, "clients": 2, "threads": 1, "progress": False, "baselines": ("zero_shot",),
    "task_options": {"template": "{{ prompt }} {{ text }} it was", "words": {"no": "terrible", "yes": "great"}},
    "method_options": {"n_tokens": 3},
}  # fmt: skip
EXAMPLES = [(f"{text} {k}", ("no", "yes")[label]) for k in range(6) for text, label in zip(TEXTS, LABELS, strict=True)]


@pytest.mark.slow
def test_a_transformer_and_its_tokenizer_are_a_model(tmp_path: Path) -> None:
    model, again = transformer("llama"), transformer("llama")
    run = pf.train(data=EXAMPLES, model=(tokenizer(), model), folder=tmp_path / "run", **SMALL)
    assert (run.config.task, run.config.method) == ("text-classification", "fedprompt")
    assert run.config.backbone == run.config.objects["model"].name == "lm:object:LlamaForCausalLM"
    assert run.prompt().state.shared["prompt_embeddings"].shape == (3, 32)
    assert "language model lm:object:LlamaForCausalLM" in run.report().read_text()
    with pytest.raises(pf.PromptFedError, match=r"'lm:object:LlamaForCausalLM' is a Python object, .*load_run"):
        pf.load_run(run.path).prompt()
    loaded = pf.load_run(run.path, data=EXAMPLES, model=(again, tokenizer()))
    assert loaded.prompt().state.shared.sha256() == run.metrics["prompt_sha256"]
    assert loaded.evaluate()
    bundle = loaded.export(client=0, path=tmp_path / "bundle")
    (answer,) = pf.load(bundle, model=(again, tokenizer())).predict([TEXTS[0]])
    assert {name for name, _ in answer.ranked} == {"no", "yes"}
    with pytest.raises(pf.PromptFedError, match="does not fit"):
        pf.load(bundle, model=(transformer("gpt2"), tokenizer()))
    with pytest.raises(pf.PromptFedError, match="the model given to run"):
        pf.load_run(run.path, model=(transformer("gpt2"), tokenizer()))


@pytest.mark.parametrize(
    ("name", "family"),
    [("gemma", "causal"), ("masked", "masked"), ("bert", "encoder"), ("t5", "encoder-decoder")],
)
def test_the_family_is_told_by_the_class(name: str, family: str) -> None:
    model = language_model_of((transformer(name), tokenizer()))
    assert isinstance(model, LanguageModel)
    assert model.family == family
    assert language_model_of(model).name == model.name  # an object stays what it is called


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: (transformer("llama"),), r"give the tuple \(model of transformers, its tokenizer\)"),
        (lambda: (T5Model(transformer("t5").config), tokenizer()), "T5Model lacks the head that predicts words"),
    ],
)
def test_what_is_no_whole_model_is_refused(model: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(pf.PromptFedError, match=said) as refused:
        pf.train(data=EXAMPLES, model=model(), folder=tmp_path / "run", **SMALL)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
