"""A black-box bundle comes back as it went out, says what is sent, and predicts as the method does."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save
from thermometer import CLASSES, FORM, Everything, Remapped, Thermometer, bundled

from promptfed.aggregators.mean import Mean
from promptfed.agreement import Agreement
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.build_method import build_method
from promptfed.config import RunConfig
from promptfed.errors import BundleError, ConfigError, TrainingError
from promptfed.examples.base import FileItem, TextItem
from promptfed.export.bundle import Bundle, make_bundle, read_bundle, write_bundle
from promptfed.export.loaded import load_bundle, load_bundle_oracle
from promptfed.export.predict import Predictor, unlabelled
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import ClientPrompt


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(Thermometer())


@pytest.fixture
def setup(oracle: Oracle) -> Setup:
    return Setup(oracle, Agreement(classes=CLASSES, templates=FORM.prompts, rounds=3, seed=5))


@pytest.fixture
def text(setup: Setup) -> Bundle:
    """Zero-shot, whose second prompt is the best one."""
    method = build_method("zero_shot", {}, setup)
    return bundled(method, "zero_shot", PromptState({"accuracy": torch.tensor([0.2, 0.9])}))


@pytest.fixture
def soft(setup: Setup) -> Bundle:
    method = build_method("fedavg_bbt", {"dim": 6, "n_tokens": 3}, setup)
    return bundled(method, "fedavg_bbt", PromptState({"z": torch.arange(6.0)}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_text_bundle_comes_back_as_it_went_out(text: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", text)
    assert set(contents(folder)) == {"prompt.safetensors", "prompt.txt", "promptfed_config.json", "README.md"}
    assert (folder / "prompt.txt").read_text() == "Be ${exact} {now}."
    back = read_bundle(folder)
    assert (back.meta.kind, back.class_features) == ("oracle", None)
    assert back.shared == text.shared
    assert back.candidate is not None
    assert text.candidate is not None
    assert back.candidate.described() == text.candidate.described()
    assert back.meta.model_copy(update={"sha256": {}}) == text.meta
    assert (back.meta.form, back.meta.classes, back.meta.examples, back.meta.complete) == (FORM, CLASSES, "texts", True)
    assert contents(write_bundle(tmp_path / "again", back)) == contents(folder)
    with pytest.raises(ConfigError, match="for a black box"):
        load_bundle(folder, backbone="tiny")


def test_what_a_run_may_spend_and_where_its_key_is_stay_with_the_run(text: Bundle, tmp_path: Path) -> None:
    config = json.loads((write_bundle(tmp_path / "b", text) / "promptfed_config.json").read_text())
    assert config["oracle"]["options"] == {"model": "m"}
    assert config["oracle"]["fingerprint"] == "a" * 64


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (save({"other": torch.zeros(3, 4)}), "soft_prompt.safetensors holds no tensor 'soft'"),
        (save({}), "soft_prompt.safetensors holds no tensor 'soft'"),
        (b"", "soft_prompt.safetensors: it has 0 bytes"),
        (b"\xff" * 100, "soft_prompt.safetensors: its header would have"),
    ],
)
def test_a_tensor_file_that_cannot_be_used_is_named(soft: Bundle, tmp_path: Path, content: bytes, line: str) -> None:
    folder = write_bundle(tmp_path / "b", soft)
    (folder / "soft_prompt.safetensors").write_bytes(content)
    config = json.loads((folder / "promptfed_config.json").read_text())
    config["sha256"]["soft_prompt.safetensors"] = hashlib.sha256(content).hexdigest()
    (folder / "promptfed_config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=re.escape(f"is damaged: {line}")):
        read_bundle(folder)


def test_soft_vectors_are_a_file_of_their_own(soft: Bundle, setup: Setup, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", soft)
    vectors = load_file(folder / "soft_prompt.safetensors")["soft"]
    method = build_method("fedavg_bbt", soft.meta.method_options, setup)
    assert vectors.tolist() == method.candidate(soft.shared, PromptState()).soft.tolist()
    assert vectors.shape == (3, 4)
    assert not (folder / "prompt.txt").exists()
    assert "(3, 4): vectors" in (folder / "README.md").read_text()


def test_what_is_more_than_a_prompt_has_no_file_of_one_and_predicts_all_the_same(
    setup: Setup, oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Remapped(Remapped.Config(), setup)
    bundle = bundled(method, "remapped", PromptState({"w": torch.ones(2)}))
    folder = write_bundle(tmp_path / "b", bundle)
    assert set(contents(folder)) == {"prompt.safetensors", "promptfed_config.json", "README.md"}
    back = read_bundle(folder)
    assert (back.candidate, back.meta.complete) == (None, False)
    assert "more than one prompt" in (folder / "README.md").read_text()
    monkeypatch.setattr("promptfed.export.predict.build_method", lambda *_: method)
    [found] = Predictor(back, oracle).predict(["fire"])
    assert found.ranked[0][0] == "cold"


@pytest.mark.parametrize("name", ["prompt.txt", "prompt.safetensors"])
def test_a_changed_or_missing_file_is_named(text: Bundle, tmp_path: Path, name: str) -> None:
    folder = write_bundle(tmp_path / "b", text)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(BundleError, match=f"SHA-256 of {name}"):
        read_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        read_bundle(folder)


def test_numbers_that_are_not_finite_are_refused(soft: Bundle) -> None:
    with pytest.raises(BundleError, match="client 2 holds numbers that are not finite"):
        replace(soft, shared=PromptState({"z": torch.tensor([float("nan")])}))


# -------------------------------------------------------------------------------------------------------- use


def test_texts_are_sorted_as_the_method_does(text: Bundle, soft: Bundle, oracle: Oracle) -> None:
    found = Predictor(text, oracle).predict(["fire fire", "ice"])
    assert [(p.example, p.ranked[0][0]) for p in found] == [("fire fire", "hot"), ("ice", "cold")]
    odds = torch.tensor([-2.0, 2.0]).softmax(0).tolist()
    assert dict(found[0].ranked) == pytest.approx(dict(zip(CLASSES, odds, strict=True)))
    warm = soft.candidate.soft.mean().item()  # type: ignore[union-attr]
    [moved] = Predictor(soft, oracle).predict(["ice"])
    assert dict(moved.ranked)["hot"] == pytest.approx(torch.tensor([1 - warm, warm - 1]).softmax(0)[1].item(), abs=1e-5)
    [other] = Predictor(text, oracle).predict(["fire"], ["hot", "damp"], top=1)
    assert other.ranked[0][0] == "hot"
    assert Predictor(text, oracle).predict([]) == []


def test_a_known_answer_is_not_asked_for_again(text: Bundle, oracle: Oracle) -> None:
    for _ in range(2):
        Predictor(text, oracle).predict(["fire", "ice"])
    assert (oracle.usage().oracle_calls, oracle.usage().oracle_cache_hits) == (2, 2)


def test_questions_are_answered(setup: Setup, oracle: Oracle, tmp_path: Path) -> None:
    bundle = bundled(
        build_method("zero_shot", {}, setup), "zero_shot", PromptState({"accuracy": torch.ones(2)}), "questions"
    )
    page = (write_bundle(tmp_path / "b", bundle) / "README.md").read_text()
    assert "answers questions in free text" in page
    [found] = Predictor(bundle, oracle).predict(["What are 3 and 4?"])
    assert found.ranked == (("7", 1.0),)


def test_another_oracle_is_refused_by_name(text: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def load(name, form, options, *, device, precision):
        given.append((name, form, options.model, options.base_url))
        return Oracle(Thermometer(form, hashlib.sha256(name.encode()).hexdigest()))

    monkeypatch.setattr("promptfed.export.loaded.load_oracle", load)
    mine = text.meta.oracle.model_copy(update={"fingerprint": hashlib.sha256(b"thermometer").hexdigest()})
    fitting = replace(text, meta=text.meta.model_copy(update={"oracle": mine}))
    assert load_bundle_oracle(fitting, base_url="http://127.0.0.1:1/v1").name == "thermometer"
    assert given == [("thermometer", FORM, "m", "http://127.0.0.1:1/v1")]
    with pytest.raises(BundleError, match=r"made for oracle 'thermometer'.*does not fit") as error:
        load_bundle_oracle(fitting, "other")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(name for name in METHODS if METHODS[name].access == "black box"))
def test_every_methods_bundle_predicts_as_the_method_does(name: str, setup: Setup, tmp_path: Path) -> None:
    """With the states that the method starts from, and an oracle that can do everything."""
    plain = replace(setup, model=Oracle(Everything())).agreeing(domains=("one", "two"))
    method = build_method(name, {"questions": ("fire", "ice")} if name == "fedicl" else {}, plain)
    server, shared = method.server_side(Mean(Mean.Config())), method.init_shared()
    prompt = ClientPrompt(server.broadcast(shared, server.init(shared), 0), method.init_personal(0))
    config = RunConfig(task="blackbox-text", method=name, oracle="everything")
    images = name in ("fedbbpt", "zoopfl")
    made = make_bundle(config, method, prompt, 0, "one", "images" if images else "texts")
    bundle = read_bundle(write_bundle(tmp_path / "b", made))
    (tmp_path / "fire.png").write_bytes(b"")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "fire.png")
    examples = [str(tmp_path / "fire.png")] if images else ["fire fire", "ice"]
    items = [FileItem(tmp_path / "fire.png")] if images else [TextItem(text) for text in examples]
    expected = method.client_logits(prompt, CLASSES, unlabelled(items)).softmax(-1)
    found = Predictor(bundle, plain.oracle).predict(examples)
    for row, prediction in zip(expected.tolist(), found, strict=True):
        assert dict(prediction.ranked) == pytest.approx(dict(zip(CLASSES, row, strict=True)), abs=1e-6)


def run_without_promptfed(folder: Path) -> str:
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    barred = "import sys\nsys.modules['promptfed'] = None\n"
    done = subprocess.run([sys.executable, "-P", "-c", barred + code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_what_is_sent_and_its_lines_make_the_same(text: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", text)
    page = (folder / "README.md").read_text()
    assert "client 2 (house $2)" in page
    assert "    Be ${exact} {now}. Weather: This stands for the text to be sorted.\n    It is\n" in page
    assert "    hot: warm\n" in page
    sent = FORM.render("Be ${exact} {now}.", "Where is it?")
    assert run_without_promptfed(folder) == f"{sent}\nsay one of: ['cold', 'warm']\n"


def test_a_template_of_a_stranger_cannot_run_code_from_the_page(text: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", text)
    config = json.loads((folder / "promptfed_config.json").read_text())
    config["form"]["template"] = "{{ ''.__class__.__mro__[1].__subclasses__() }} {{ prompt }} {{ text }}"
    (folder / "promptfed_config.json").write_text(json.dumps(config))
    with pytest.raises(AssertionError, match="SecurityError"):
        run_without_promptfed(folder)


def test_the_page_of_a_sentence_encoder_compares_descriptions(text: Bundle, tmp_path: Path) -> None:
    oracle = text.meta.oracle.model_copy(update={"name": "minilm"})
    bundle = replace(text, meta=text.meta.model_copy(update={"oracle": oracle}))
    folder = write_bundle(tmp_path / "b", bundle)
    assert "    Be ${exact} {now}. This stands for the text" in (folder / "README.md").read_text()
    stub = "class SentenceTransformer:\n    def __init__(self, name): pass\n"
    stub += "    def encode(self, texts, normalize_embeddings):\n        import numpy as np\n"
    stub += "        assert texts[0] == 'Be ${exact} {now}. Where is it?', texts\n"
    stub += "        return [np.array([1.0]), *(np.array([float(t == 'warm')]) for t in texts[1:])]\n"
    (folder / "sentence_transformers.py").write_text(stub)
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.stdout == "hot\n", done.stderr


# ------------------------------------------------------------------------------------------- a stranger's bundle


def changed_by_a_stranger(folder: Path, change: dict[str, object]) -> Path:
    """The bundle in ``folder`` with other ``oracle`` options, ``form`` fields or method options in its config."""
    config = json.loads((folder / "promptfed_config.json").read_text())
    for path, value in change.items():
        place = config
        *parts, last = path.split(".")
        for part in parts:
            place = place[part]
        place[last] = value
    (folder / "promptfed_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("variable", ["HOME", "PATH", "AWS_SECRET_ACCESS_KEY"])
def test_a_strangers_bundle_chooses_neither_server_nor_key(
    text: Bundle, tmp_path: Path, stub_server, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("PROMPTFED_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv(variable, "a secret of mine")
    stub = stub_server()
    options = {"base_url": stub.base_url, "api_key_env": variable, "model": "toy-1", "embeddings": "/etc", "retries": 0}
    folder = write_bundle(tmp_path / "b", text)
    bundle = read_bundle(changed_by_a_stranger(folder, {"oracle.name": "api", "oracle.options": options}))
    with pytest.raises(ConfigError, match=re.escape(f"'{stub.base_url}'") + ".*--trust-address"):
        load_bundle_oracle(bundle)
    assert stub.asked == []
    with pytest.raises(BundleError, match="does not fit") as refused:  # another fingerprint: the address was admitted
        load_bundle_oracle(bundle, trust_address=True)
    match = re.search(r"does not fit oracle 'api' \(fingerprint (\w+)", str(refused.value))
    assert match is not None
    loaded = []
    monkeypatch.setattr(
        "promptfed.export.loaded.load_oracle",
        lambda name, form, options, **_: loaded.append(options) or Oracle(Thermometer(form)),
    )
    load_bundle_oracle(bundle)
    assert (loaded[0].base_url, loaded[0].api_key_env, loaded[0].embeddings) == (stub.base_url, None, None)
    load_bundle_oracle(bundle, api_key_env="MINE")
    assert loaded[1].api_key_env == "MINE"


@pytest.mark.parametrize("name", ["file:/etc/hostname", "file:~/.ssh/config", "/etc/passwd"])
def test_a_strangers_bundle_names_no_file_for_its_tokens(text: Bundle, tmp_path: Path, name: str) -> None:
    folder = changed_by_a_stranger(write_bundle(tmp_path / "b", text), {"method_options.vocabulary": name})
    with pytest.raises(BundleError, match="names a file for its vocabulary"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["local:/proc/self", "local:../models/mine", "clip:open_clip:ViT-B-32/~/w.pt"])
def test_a_strangers_bundle_names_no_model_file(text: Bundle, tmp_path: Path, name: str) -> None:
    folder = changed_by_a_stranger(write_bundle(tmp_path / "b", text), {"oracle.name": name})
    with pytest.raises(ConfigError, match="name your copy of it by --oracle"):
        load_bundle_oracle(read_bundle(folder))


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}{{ prompt }}{{ text }}",
        "{{ 'a' * 3000000000 }}{{ prompt }}{{ text }}",
        "{{ prompt }}{{ text }}{{ 'x' | center(10000000000) }}",
    ],
)
def test_a_strangers_template_costs_nothing(text: Bundle, tmp_path: Path, template: str) -> None:
    folder = changed_by_a_stranger(write_bundle(tmp_path / "b", text), {"form.template": template})
    with pytest.raises(BundleError, match=r"wrong in form\.template"):
        read_bundle(folder)


def test_a_bundle_carries_its_own_tokens_under_the_digest_of_its_prompt(setup: Setup, tmp_path: Path) -> None:
    tokens = ["uno", "due", "tre"]
    method = build_method("fedbdpl", {"vocabulary": tokens, "candidates": 6}, setup)
    folder = write_bundle(tmp_path / "b", bundled(method, "fedbdpl", method.init_shared()))
    back = read_bundle(folder)
    assert back.meta.method_options["vocabulary"] == tokens
    assert Predictor(back, setup.oracle).predict(["fire"])[0].ranked[0][0] == "hot"
    other = read_bundle(changed_by_a_stranger(folder, {"method_options.vocabulary": ["uno", "due", "my key"]}))
    with pytest.raises(TrainingError, match="vocabulary is not the one"):
        Predictor(other, setup.oracle)
