"""All clients of a run: what is written, what is reused, what is exported, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from promptfed.errors import ConfigError, RunError
from promptfed.evaluation import evaluate
from promptfed.export.bundle import read_bundle, write_bundle
from promptfed.method import Method
from promptfed.personalize import every_client as whole_run
from promptfed.personalize.every_client import personalize_run
from promptfed.personalize.options import PersonalizeOptions
from promptfed.prompt_state import PromptState
from promptfed.runs.personalized import load_client

QUICK = PersonalizeOptions(lr=0.05, epochs=3, alphas=(0.0, 0.5, 1.0))


def test_everything_is_written_and_the_ends_are_the_evaluations(finish, toy_task):
    finished, done = finish(), []
    curve = personalize_run(finished, toy_task, QUICK, lambda n, of: done.append((n, of)))
    folder = finished.run.path / "personalized"
    kinds = {f"client-{k}.{kind}" for k in range(3) for kind in ("json", "safetensors")}
    assert {path.name for path in folder.iterdir()} == kinds | {"curve.json", "curve.md", "curve.png"}
    assert done == [(1, 3), (2, 3), (3, 3)]
    written = json.loads((folder / "curve.json").read_text())
    assert written.pop("checksum")
    assert written == json.loads(json.dumps(curve))
    shared, _, own, chosen = curve["rows"]
    plain = evaluate(finished.method, {k: finished.prompt(k) for k in range(3)}, toy_task).figures
    assert (shared["local"], shared["base"], shared["new"]) == pytest.approx((plain.local, plain.base, plain.new))
    tuned = {k: replace(finished.personalized(k).deployed(finished.prompt(k)), alpha=1.0) for k in range(3)}
    figures = evaluate(finished.method, tuned, toy_task).figures
    assert (own["local"], own["base"], own["new"]) == pytest.approx((figures.local, figures.base, figures.new))
    deployed = {k: finished.personalized(k).deployed(finished.prompt(k)) for k in range(3)}
    figures = evaluate(finished.method, deployed, toy_task).figures
    assert (chosen["local"], chosen["new"]) == pytest.approx((figures.local, figures.new))
    assert curve["training"] == {"lr": 0.05, "epochs": 3, "l2_to_global": 0.0}


def test_done_clients_are_not_done_again_and_an_interrupted_one_is(finish, toy_task, monkeypatch):
    finished = finish()
    whole = personalize_run(finished, toy_task, QUICK)
    folder = finished.run.path / "personalized"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    trained = []
    real = whole_run.finetune

    def watched(method, jobs, *rest):
        trained.extend(data.client for _, data in jobs)
        return real(method, jobs, *rest)

    monkeypatch.setattr(whole_run, "finetune", watched)
    assert personalize_run(finished, toy_task, QUICK) == whole
    assert trained == []
    (folder / "client-1.json").unlink()
    (folder / "client-2.safetensors").write_bytes(b"torn")
    assert personalize_run(finished, toy_task, QUICK) == whole
    assert trained == [1, 2]
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before, "the same files, bit for bit"
    personalize_run(finished, toy_task, QUICK.model_copy(update={"epochs": 4}))
    assert trained == [1, 2, 0, 1, 2]


def test_ctrl_c_keeps_what_is_done_and_leaves_no_curve_of_other_options(finish, toy_task):
    finished = finish()
    personalize_run(finished, toy_task, QUICK)

    def stop(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        personalize_run(finished, toy_task, QUICK.model_copy(update={"epochs": 1}), stop)
    assert load_client(finished.run.path, 0).about.origin.epochs == 1
    assert not list((finished.run.path / "personalized").glob("curve.*"))


def test_clients_side_by_side_end_the_same(finish, toy_task):
    one, three = (finish(client_batch=size) for size in (1, 3))
    personalize_run(one, toy_task, QUICK)
    personalize_run(three, toy_task, QUICK)
    for client in range(3):
        first, second = (load_client(finished.run.path, client) for finished in (one, three))
        torch.testing.assert_close(first.tuned["ctx"], second.tuned["ctx"], rtol=0, atol=1e-5)
        assert first.about.alpha == second.about.alpha


def test_a_method_with_personal_prompts_is_mixed_and_not_trained(finish, toy_task, monkeypatch):
    finished = finish("promptfolio")
    monkeypatch.setattr(whole_run, "finetune", lambda *_: pytest.fail("trained"))
    curve = personalize_run(finished, toy_task, PersonalizeOptions(alphas=(0.0, 1.0)))
    assert curve["method"] == "none"
    assert curve["training"] is None
    assert not list((finished.run.path / "personalized").glob("*.safetensors"))
    deployed = finished.personalized(1).deployed(finished.prompt(1))
    assert deployed.personal == finished.state.personal[1]


def test_clients_that_never_took_part_share_one_encoding_of_the_texts(finish, toy_task):
    """Two clients whose personal prompt is empty: the second costs no text, and their curves are flat."""
    finished = finish("promptfolio", n_ctx=3)
    kept = finished.state.personal[2]
    finished = replace(finished, state=replace(finished.state, personal={0: PromptState(), 1: PromptState(), 2: kept}))
    calls, counts = finished.method.setup.backbone.calls, []
    personalize_run(
        finished, toy_task, PersonalizeOptions(method="none", alphas=(0.0, 1.0)), lambda *_: counts.append(calls.texts)
    )
    assert counts[1] == counts[0] < counts[2]
    for client in (0, 1):
        about = load_client(finished.run.path, client).about
        assert about.base[0] == about.base[1]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("promptfolio", {"method": "finetune"}, "use --method none"),
        ("promptfl", {"method": "none"}, "use --method finetune"),
        ("promptfolio", {"epochs": 3, "l2_to_global": 0.1}, "--epochs, --l2-to-global does not go"),
        ("zero_shot", {}, "trains nothing by gradients"),
        ("local_only", {"space": "prompt"}, "cannot be interpolated in prompt space"),
    ],
)
def test_what_does_not_go_together_is_said(finish, toy_task, name, options, said):
    finished = finish(name)
    with pytest.raises(ConfigError, match=said):
        personalize_run(finished, toy_task, PersonalizeOptions(alphas=(0.0, 0.5, 1.0), **options))


# --------------------------------------------------------------------------------------------------- export


def test_the_bundle_is_the_personalised_prompt_with_alpha_and_why(finish, toy_task, tmp_path):
    finished = finish()
    plain = finished.bundle(2)
    assert (plain.meta.alpha, plain.meta.chosen, len(plain.tuned)) == (1.0, "", 0)
    personalize_run(finished, toy_task, QUICK.model_copy(update={"alphas": (0.3,)}))
    back = read_bundle(write_bundle(tmp_path / "bundle", finished.bundle(2)))
    saved = load_client(finished.run.path, 2)
    assert back.tuned == saved.tuned
    assert (back.meta.alpha, back.meta.space, back.meta.chosen) == (0.3, "prompt", saved.about.why)
    mixed = PromptState({"ctx": torch.lerp(finished.state.shared["ctx"], saved.tuned["ctx"], 0.3)})
    expected = finished.method.class_features(mixed, PromptState(), toy_task.base_classes)
    torch.testing.assert_close(back.class_features, expected)
    assert "30% of it is the client's own prompt" in (tmp_path / "bundle" / "README.md").read_text()
    shared = finished.bundle(2, shared_only=True)
    assert shared.shared == plain.shared
    assert torch.equal(shared.class_features, plain.class_features)
    assert shared.meta.chosen == ""


def test_a_bundle_predicts_what_the_client_deploys(finish, toy_task, tmp_path):
    from promptfed.export.predict import Predictor

    finished = finish()
    personalize_run(finished, toy_task, QUICK.model_copy(update={"alphas": (0.6,), "space": "features"}))
    bundle = read_bundle(write_bundle(tmp_path / "bundle", finished.bundle(1)))
    setup = finished.method.setup
    predictor = Predictor(bundle, setup.model)
    deployed = finished.personalized(1).deployed(finished.prompt(1))
    own, split = list(toy_task.base_classes), toy_task.base_test
    expected = finished.method.client_logits(deployed, own, split)
    torch.testing.assert_close(predictor._logits(split, tuple(own), own=True), expected)
    torch.testing.assert_close(predictor._logits(split, tuple(own), own=False), expected)
    strange = ("pink", "cyan")
    assert isinstance(predictor.method, Method)
    torch.testing.assert_close(
        predictor.method.client_logits(bundle.prompt, strange, toy_task.new_test),
        finished.method.client_logits(deployed, strange, toy_task.new_test),
    )


def test_shared_only_leaves_a_methods_own_personal_prompt_at_home(finish):
    bundle = finish("promptfolio").bundle(0, shared_only=True)
    assert len(bundle.personal) == len(bundle.tuned) == 0
    assert len(bundle.shared) > 0


def test_a_run_trained_on_since_is_not_exported_by_mistake(finish, toy_task):
    finished = finish()
    personalize_run(finished, toy_task, QUICK)
    later = replace(finished, state=replace(finished.state, round=3, shared=2 * finished.state.shared))
    with pytest.raises(RunError, match=r"after round 2, with other prompts than those of round 3.*--shared"):
        later.bundle(0)
    assert later.bundle(0, shared_only=True).shared == later.state.shared
    personalize_run(later, toy_task, QUICK)
    assert later.bundle(0).meta.chosen
