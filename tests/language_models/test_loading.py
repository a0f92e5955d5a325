"""Language models by name: families, folders, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from promptfed.cli import main
from promptfed.errors import BackboneError, ConfigError
from promptfed.language_models import loading, pretrained, remote_code
from promptfed.language_models.loading import load_language_model

from ..tiny_language_models import CAUSAL_FORM, FORM, tokenizer, transformer

OTHER_CODE = """
from transformers import LlamaConfig
open(r"{mark}", "w").write("ran")
class Config(LlamaConfig):
    model_type = "{name}"
"""


@pytest.fixture
def folder(tmp_path):
    """Save the model ``name`` with its tokenizer, and return where."""

    def save(name):
        place = tmp_path / name
        transformer(name).save_pretrained(place)
        tokenizer().save_pretrained(place)
        return place

    return save


@pytest.mark.parametrize(
    ("name", "family"), [("llama", "causal"), ("masked", "masked"), ("bert", "encoder"), ("t5", "encoder-decoder")]
)
def test_a_folder_is_loaded_as_its_family(folder, name, family):
    model = load_language_model(f"lm:{folder(name)}", FORM if name == "masked" else CAUSAL_FORM)
    assert model.family == family
    original, loaded = transformer(name).state_dict(), model.model.state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in original.items())
    again = load_language_model(f"lm:{folder(name)}", FORM, precision="bfloat16")
    assert again.dtype == torch.bfloat16
    assert again.fingerprint != model.fingerprint


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"{" + b",".join(b'"t%d":0' % number for number in range(60_000)) + b"}", "60,000 tensors; at most 50,000"),
        (b'{"a": 0, "a": 0}', "the key 'a' twice"),
        (b"[" * 100_000, "not a JSON object"),
    ],
)
def test_headers_are_checked_before_transformers_reads_the_weights(folder, monkeypatch, header, why):
    place = folder("bert")
    (place / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", None)
    with pytest.raises(BackboneError, match=why):
        load_language_model(f"lm:{place}", FORM)


def test_what_is_no_language_model_is_one_line(tmp_path):
    for name in ("lm:", "tiny"):
        with pytest.raises(ConfigError, match=r"write lm:minilm, lm:gemma or lm:FOLDER"):
            load_language_model(name, FORM)
    with pytest.raises(BackboneError, match="is not a folder with a model"):
        load_language_model(f"lm:{tmp_path / 'nothing'}", FORM)
    with pytest.raises(BackboneError, match="unset HF_HUB_OFFLINE"):
        load_language_model("lm:some-organisation/no-such-model", FORM)


def test_eight_and_four_bits_need_cuda(monkeypatch):
    with pytest.raises(ConfigError, match="needs CUDA and a large model, and this runs on cpu"):
        load_language_model("lm:gemma", FORM, precision="int4")
    with pytest.raises(ConfigError, match="MiniLM is too small"):
        load_language_model("lm:minilm", FORM, precision="int8")
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        loading.check_quantization("int8", torch.device("cuda"), "some/model")
    options = pretrained.quantization_option("int4", torch.bfloat16, torch.device("cuda", 1))
    assert options["device_map"] == {"": torch.device("cuda", 1)}
    assert options["quantization_config"].load_in_4bit


def test_code_that_comes_with_a_model_runs_only_where_the_user_says_so(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(remote_code.VARIABLE, raising=False)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    place, mark = folder("llama"), tmp_path / "mark"
    config = json.loads((place / "config.json").read_text())
    config |= {"model_type": "somebodys", "auto_map": {"AutoConfig": "somebodys.Config"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "somebodys.py").write_text(OTHER_CODE.format(mark=mark, name="somebodys"))
    with pytest.raises(BackboneError, match="if you trust it, add --trust-remote-code"):
        load_language_model(f"lm:{place}", CAUSAL_FORM)
    assert not mark.exists()
    monkeypatch.setenv(remote_code.VARIABLE, "0")
    assert not remote_code.is_trusted()
    with pytest.raises(SystemExit):
        main(["--version", "--trust-remote-code"])
    assert remote_code.is_trusted()
    with pytest.raises(BackboneError, match="does not load as a language model"):
        load_language_model(f"lm:{place}", CAUSAL_FORM)  # its code has a config, and no model
    assert mark.read_text() == "ran"
