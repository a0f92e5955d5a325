"""A client's files come back as they went out, and a damaged one is named."""

from __future__ import annotations

import json
from shutil import copy

import pytest
import torch

from promptfed.errors import RunError
from promptfed.prompt_state import PromptState
from promptfed.runs.personalized import SavedClient, TuningOrigin, load_client, prompt_sha256, save_client
from promptfed.types import ClientPrompt

SHARED = PromptState({"ctx": torch.ones(2, 3)})
TUNED = PromptState({"ctx": torch.full((2, 3), 2.0)})


@pytest.fixture
def about():
    origin = TuningOrigin(
        round=3, prompt_sha256=prompt_sha256(ClientPrompt(SHARED)), method="finetune", space="prompt",
        alphas=(0.0, 0.5, 1.0), lr=0.1, epochs=2, l2_to_global=0.5,
    )  # fmt: skip
    values = {"val": (0.5, 0.75, 0.75), "local": (0.2, 0.3, 0.4), "base": (0.1, 0.2, 0.3), "new": ()}
    return SavedClient(client=4, name="house 4", alpha=0.5, why="because", origin=origin, **values)


def test_it_comes_back(tmp_path, about):
    save_client(tmp_path, about, TUNED)
    found = load_client(tmp_path, 4)
    assert found.tuned == TUNED
    assert found.about.model_copy(update={"tuned_sha256": ""}) == about
    assert found.about.curve.choice.place == 1
    assert found.deployed(ClientPrompt(SHARED)) == ClientPrompt(SHARED, alpha=0.5, space="prompt", tuned=TUNED)
    assert load_client(tmp_path, 5) is None


def test_a_client_whose_method_trained_its_prompt_has_the_json_alone(tmp_path, about):
    save_client(tmp_path, about, TUNED)
    save_client(tmp_path, about, PromptState())
    assert [path.name for path in (tmp_path / "personalized").iterdir()] == ["client-4.json"]
    personal = PromptState({"local": torch.zeros(1)})
    deployed = load_client(tmp_path, 4).deployed(ClientPrompt(SHARED, personal))
    assert (deployed.personal, deployed.alpha, len(deployed.tuned)) == (personal, 0.5, 0)


def test_the_identity_covers_shared_and_personal():
    own = ClientPrompt(SHARED, TUNED)
    assert len({prompt_sha256(p) for p in (ClientPrompt(SHARED), ClientPrompt(TUNED), own)}) == 3
    assert prompt_sha256(ClientPrompt(SHARED, TUNED, 0.3)) == prompt_sha256(own)


def test_damage_is_named(tmp_path, about):
    save_client(tmp_path, about, TUNED)
    prompt, sheet = (tmp_path / "personalized" / f"client-4.{kind}" for kind in ("safetensors", "json"))
    whole = sheet.read_text()
    for broken in (whole[:50], json.dumps({**json.loads(whole), "alpha": 0.4}), json.dumps({"client": 4})):
        sheet.write_text(broken)
        with pytest.raises(RunError, match=r"client-4\.json is damaged .* promptfed personalize"):
            load_client(tmp_path, 4)
    sheet.write_text(whole)
    prompt.write_bytes(SHARED.to_bytes())
    with pytest.raises(RunError, match="SHA-256"):
        load_client(tmp_path, 4)
    prompt.unlink()
    with pytest.raises(RunError, match="damaged"):
        load_client(tmp_path, 4)


@pytest.mark.parametrize("lost", ["json", "json and prompt", "folder"])
def test_a_lost_client_is_not_taken_for_one_that_was_not_personalised(tmp_path, about, lost):
    save_client(tmp_path, about, TUNED)
    folder = tmp_path / "personalized"
    (folder / "curve.json").write_text("{}")
    (folder / "client-4.json").unlink()
    if lost == "json":
        (folder / "curve.json").unlink()
    else:
        (folder / "client-4.safetensors").unlink()
    if lost == "folder":
        (folder / "curve.json").unlink()
        folder.rmdir()
        folder.write_text("a file")
    with pytest.raises(RunError, match="is not a folder" if lost == "folder" else r"client-4\.json is gone"):
        load_client(tmp_path, 4)


@pytest.mark.parametrize("other", [0, 3, 44])
def test_a_prompt_of_another_client_is_refused(tmp_path, about, other):
    save_client(tmp_path, about, TUNED)
    for kind in ("safetensors", "json"):
        copy(tmp_path / "personalized" / f"client-4.{kind}", tmp_path / "personalized" / f"client-{other}.{kind}")
    with pytest.raises(RunError, match="it is of client 4"):
        load_client(tmp_path, other)
