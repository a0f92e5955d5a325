"""Bundles and adapters of prompts that were learned on a language model: PEFT, promptfed and plain code agree."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from promptfed.config import RunConfig
from promptfed.errors import BundleError, ConfigError
from promptfed.examples.base import TextItem
from promptfed.export.adapter import EXAMPLE, client_adapter
from promptfed.export.bundle import Bundle, check_model, make_bundle, read_bundle, write_bundle
from promptfed.export.loaded import load_bundle
from promptfed.export.merged import merged_model
from promptfed.export.predict import Predictor, unlabelled
from promptfed.inserts.base import InsertKind
from promptfed.inserts.low_rank import LowRank
from promptfed.language_models.model import SCALE
from promptfed.method import METHODS
from promptfed.methods.fedprompt import FedPrompt, FedPromptConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.language_method import LanguageConfig, LanguageMethod
from promptfed.types import ClientPrompt

from ..tiny_language_models import CLASSES, TEXTS, setup, split, tokenizer, transformer


class Factors(LanguageMethod):
    """Low-rank factors, as FedIT has them."""

    name: ClassVar[str] = "factors"
    paper: ClassVar[str] = "none"
    trains: ClassVar[str] = "LoRA (r, in), (out, r)"
    Config = LanguageConfig

    def make_kind(self) -> InsertKind:
        return LowRank(self.model.matrices, self.model.default_targets, 0, r=2, alpha=3)


def moved(state: Mapping[str, torch.Tensor], by: float = 0.5) -> PromptState:
    """Values as after training: far from the start."""
    stream = torch.Generator().manual_seed(11)
    return PromptState(
        {name: tensor + by * torch.randn(tensor.shape, generator=stream) for name, tensor in state.items()}
    )


def method_of(kind: str, name: str, **options: Any) -> LanguageMethod:
    if kind == "soft":
        return FedPrompt(FedPromptConfig(n_tokens=3, **options), setup(name))
    return Factors(LanguageConfig(**options), setup(name))


def exported(kind: str, name: str, **options: Any) -> tuple[LanguageMethod, ClientPrompt, Bundle]:
    """A method, what a client deploys, and its bundle."""
    METHODS.adopt(Factors)
    method = method_of(kind, name, **options)
    prompt = ClientPrompt(moved(method.init_shared()))
    label = "fedprompt" if kind == "soft" else METHODS.adopt(Factors)
    made_with = method.config.model_dump(mode="json")
    config = RunConfig(task="text-classification", method=label, backbone=f"lm:{name}", method_options=made_with)
    return method, prompt, make_bundle(config, method, prompt, 0, "client 0", "texts")


def run(code: str, folder: Path, base: Path) -> tuple[str, dict[str, Any]]:
    """What the code of a README prints in its folder, with the base model in its place, and its variables."""
    variables: dict[str, Any] = {}
    out, before = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out):
            exec(re.sub(r"BASE = .*", f"BASE = {str(base)!r}", code), variables)
    finally:
        os.chdir(before)
    return out.getvalue().strip(), variables


def scores_in(variables: dict[str, Any]) -> torch.Tensor:
    if "words" in variables:
        return torch.stack([variables["logits"][variables["words"][name]] for name in CLASSES])
    if "described" in variables:
        return torch.stack([SCALE * variables["described"][name] @ variables["vector"] for name in CLASSES])
    return variables["scores"]


def code_in(folder: Path) -> str:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)[0]


def saved(name: str, folder: Path) -> Path:
    transformer(name).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


CASES = [
    ("soft", "bert", {}), *(
        pytest.param(*case, marks=pytest.mark.slow) for case in [
            ("soft", "llama", {}), ("soft", "masked", {}), ("soft", "t5", {}), ("low rank", "llama", {}),
            ("low rank", "gpt2", {}), ("low rank", "bert", {"head": "linear"}), ("soft", "llama", {"head": "linear"}),
            ("soft", "masked", {"head": "linear"}), ("low rank", "t5", {"head": "linear"}),
        ]
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "options"), CASES)
def test_a_bundle_predicts_as_its_method_does_and_so_does_the_code_in_its_readme(
    tmp_path: Path, kind: str, name: str, options: dict[str, Any]
) -> None:
    pytest.importorskip("peft")
    method, prompt, bundle = exported(kind, name, **options)
    write_bundle(tmp_path / "b", bundle)
    again = read_bundle(tmp_path / "b")
    assert again.contents() == bundle.contents()
    assert again.meta.complete
    scores = method.client_logits(prompt, CLASSES, split())
    predictor = Predictor(again, setup(name).model)
    names = [prediction.ranked[0][0] for prediction in predictor.predict(TEXTS)]
    assert names == [CLASSES[int(best)] for best in scores.argmax(-1)]
    # the code in the README is about one text
    answer, variables = run(code_in(tmp_path / "b"), tmp_path / "b", saved(name, tmp_path / "base"))
    assert answer == predictor.predict([EXAMPLE])[0].ranked[0][0]
    one = unlabelled([TextItem(EXAMPLE)])
    torch.testing.assert_close(
        scores_in(variables), method.client_logits(prompt, CLASSES, one)[0], atol=2e-5, rtol=1e-5
    )
    method.model.verify_frozen()


@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_a_merged_model_has_the_scores_of_the_adapter(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    from promptfed.language_models.model import LanguageModel

    method, prompt, _ = exported("low rank", name)
    merged_model(method, prompt, "a lead").save(tmp_path / "merged")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    plain = FedPrompt(FedPromptConfig(n_tokens=1), setup(name))
    model = LanguageModel("lm:merged", method.model.form, whole, tokenizer(), "causal")
    scores = method.client_logits(prompt, CLASSES, split())
    rows = [model.writer.row(item) for item in split().items]
    hidden = model.hidden([row.ids for row in rows], at=[[row.at] for row in rows])[:, 0]
    torch.testing.assert_close(model.word_logits(hidden, model.label_ids(CLASSES)), scores, atol=1e-5, rtol=1e-5)
    method.model.verify_frozen()
    with pytest.raises(BundleError, match="is there already"):
        merged_model(method, prompt, "").save(tmp_path / "merged")
    with pytest.raises(ConfigError, match="--merged is for low-rank changes"):
        merged_model(plain, ClientPrompt(plain.init_shared()), "")


def test_what_an_adapter_cannot_hold_is_said_and_the_bundle_has_it_all_the_same(tmp_path: Path) -> None:
    class Two(FedPrompt):
        def logits(self, *arguments: Any) -> torch.Tensor:
            return super().logits(*arguments) + super().logits(*arguments)

    method = Two(FedPromptConfig(n_tokens=3), setup("bert"))
    prompt = ClientPrompt(method.init_shared())
    with pytest.raises(
        ConfigError, match="several prompts together, and an adapter holds one: leave out --format peft"
    ):
        client_adapter(method, prompt)
    config = RunConfig(task="text-classification", method="fedprompt", backbone="lm:bert")
    bundle = make_bundle(config, method, prompt, 0, "client 0", "texts")
    assert not bundle.meta.complete
    assert (
        "predicts with more than one insert" in write_bundle(tmp_path / "b", bundle).joinpath("README.md").read_text()
    )
    tuned = ClientPrompt(method.init_shared(), moved(method.init_shared()), 0.5, "features")
    with pytest.raises(ConfigError, match=r"mixture of the scores of two prompts \(alpha 0.5\)"):
        client_adapter(method_of("soft", "bert"), tuned)


def test_a_bundle_for_a_model_in_a_folder_must_be_told_which(tmp_path: Path) -> None:
    method, prompt, _ = exported("soft", "bert")
    method.model._name = f"lm:{tmp_path}/secret-place/base"
    config = RunConfig(task="text-classification", method="fedprompt", backbone=method.model.name)
    folder = write_bundle(tmp_path / "b", make_bundle(config, method, prompt, 0, "client 0", "texts"))
    with pytest.raises(ConfigError, match=r"made for a model in a folder \('base'\).*--backbone lm:FOLDER"):
        load_bundle(folder)
    assert "secret-place" not in (folder / "README.md").read_text()
    other = Bundle(**vars(read_bundle(folder)))
    with pytest.raises(BundleError, match=r"was made for language model .* does not fit language model 'lm:llama'"):
        check_model(other, setup("llama").model)


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("fes", {"inner": "fedprompt", "n_tokens": 3}, 3),
        ("fedmrl", {"n_tokens": 4, "lengths": (2, 4), "deployed": 2}, 2),
    ],
)
def test_a_method_with_scores_of_its_own_says_its_one_insert(name: str, options: dict[str, Any], rows: int) -> None:
    kind = METHODS[name]
    method = kind(kind.Config(**options), setup("llama"))
    exported_prompt = client_adapter(method, ClientPrompt(method.init_shared())).adapter
    assert exported_prompt.config.num_virtual_tokens == rows


def test_a_task_of_fedyolo_is_one_adapter_and_all_tasks_are_none() -> None:
    kind = METHODS["fedyolo"]
    method = kind(kind.Config(n_tokens=3), setup("llama", domains=("news", "reviews")))
    shared = method.init_shared()
    one = PromptState({name: tensor for name, tensor in shared.items() if name.startswith("task/0/")})
    assert client_adapter(method, ClientPrompt(one)).adapter.config.num_virtual_tokens == 3
    with pytest.raises(ConfigError, match="predicts with several prompts together"):
        client_adapter(method, ClientPrompt(shared))
