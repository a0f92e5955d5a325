from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from promptfed.prompt_state import PromptState


@pytest.fixture(scope="session")
def bundle(finished, tmp_path_factory):
    from promptfed.cli import main

    folder = tmp_path_factory.mktemp("bundles") / "own"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(finished), "--client", "1", "--out", str(folder)])
    assert ended.value.code == 0
    return folder


def first_picture(small, name):
    from pathlib import Path

    folder = Path(small[small.index("--data") + 1].removeprefix("folder:"))
    return folder / name / "0.png"


def test_a_bundle_holds_the_runs_own_prompt(bundle, finished):
    assert {p.name for p in bundle.iterdir()} == {
        "prompt.safetensors", "promptfed_config.json", "class_text_features.safetensors", "README.md"
    }  # fmt: skip
    prompt = PromptState.load(bundle / "prompt.safetensors")
    state = load_file(finished / "checkpoints" / "round-0002" / "state.safetensors")
    assert np.array_equal(prompt["shared/ctx"].numpy(), state["shared/ctx"])
    about = json.loads((bundle / "promptfed_config.json").read_text())
    assert about["classes"] == ["ant", "bee", "cat", "dog", "eel", "fox"]
    assert about["client"] == 1


def test_numpy_alone_classifies_like_predict(bundle, small, promptfed):
    from promptfed.backbones import load_backbone
    from promptfed.examples.base import FileItem

    image = first_picture(small, "dog")
    said = promptfed("predict", bundle, image, "--top", 6, "--json")
    assert said.code == 0, said.err
    backbone = load_backbone("tiny")
    feature = backbone.encode_images(backbone.preprocess(FileItem(image).load())[None])[0].numpy()
    kept = load_file(bundle / "class_text_features.safetensors")
    scores = float(kept["logit_scale"]) * kept["features"] @ (feature / np.linalg.norm(feature))
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    ranked = {row["class"]: row["probability"] for row in json.loads(said.out)[0]["ranked"]}
    about = json.loads((bundle / "promptfed_config.json").read_text())
    assert ranked == pytest.approx(dict(zip(about["classes"], shares.tolist(), strict=True)), abs=1e-4)


def test_predict_takes_classes_never_seen_in_training(bundle, small, promptfed):
    images = [first_picture(small, "koi"), first_picture(small, "lynx")]
    said = promptfed("predict", bundle, *images, "--classes", "koi,lynx,snow leopard", "--json")
    rows = json.loads(said.out)
    assert [row["path"] for row in rows] == [str(i) for i in images]
    assert all({r["class"] for r in row["ranked"]} == {"koi", "lynx", "snow leopard"} for row in rows)
    assert all(sum(r["probability"] for r in row["ranked"]) == pytest.approx(1) for row in rows)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_file_costs_its_own_answer_only(bundle, small, promptfed, tmp_path, as_json):
    good = first_picture(small, "dog")
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:-30])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.gif").write_text("no picture")
    bad = [tmp_path / "empty.jpg", cut, tmp_path / "text.gif", tmp_path / "absent.png"]
    said = promptfed("predict", bundle, bad[0], good, *bad[1:], *(["--json"] if as_json else []))
    assert said.code == 2
    for path in bad:
        assert sum(str(path) in line for line in said.err.splitlines()) == 1
    if as_json:
        rows = json.loads(said.out)
        assert [row["path"] for row in rows] == [str(path) for path in (good, *bad)]
        assert ["ranked" in row for row in rows] == [True, False, False, False, False]
    else:
        assert [line.partition(": ")[0] for line in said.out.splitlines()] == [str(good)]


def test_of_a_folder_every_image_is_taken_and_that_is_said(bundle, small, promptfed, tmp_path):
    import shutil

    inside = [tmp_path / "photos" / name for name in ("a.png", "b.PNG", "deeper/c.png")]
    for path in inside:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(first_picture(small, "dog"), path)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    said = promptfed("predict", bundle, tmp_path / "photos")
    assert said.code == 0, said.err
    assert [line.partition(": ")[0] for line in said.out.splitlines()] == [str(path) for path in inside]
    assert f"note: 3 images in folder {tmp_path / 'photos'}" in said.err
    (tmp_path / "nothing").mkdir()
    said = promptfed("predict", bundle, tmp_path / "nothing")
    assert said.code == 2
    assert "holds no image file" in said.err


def test_predicted_images_leave_nothing_on_disk_unless_asked(bundle, small, promptfed, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (20, 20), (1, 2, 3)).save(tmp_path / "mine.png")

    def files_in_cache():
        return list((tmp_path / "cache").rglob("*.safetensors"))

    first = promptfed("predict", bundle, tmp_path / "mine.png")
    assert first.code == 0, first.err
    assert files_in_cache() == []
    assert promptfed("predict", bundle, tmp_path / "mine.png", "--cache").out == first.out
    assert len(files_in_cache()) == 1
    assert promptfed("predict", bundle, tmp_path / "mine.png").out == first.out
    assert promptfed("predict", bundle, tmp_path / "mine.png", "--keep-features").out == first.out  # its old name


def test_below_the_threshold_it_is_none_of_these_in_every_form(bundle, small, promptfed, tmp_path):
    image = first_picture(small, "dog")
    plain = json.loads(promptfed("predict", bundle, image, "--json").out)[0]
    assert "none_of_these" not in plain
    said = promptfed("predict", bundle, image, "--threshold", 1, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == [{**plain, "none_of_these": True}]
    assert json.loads(promptfed("predict", bundle, image, "--threshold", 0, "--json").out)[0]["none_of_these"] is False
    assert promptfed("predict", bundle, image, "--threshold", 1, "-q").out == "none of these\n"
    assert (
        f"{image}: none of these ({plain['ranked'][0]['class']} "
        in promptfed("predict", bundle, image, "--threshold", 1).out
    )
    said = promptfed("predict", bundle, image, "--threshold", 2)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "threshold is 2.0: give a probability from 0 to 1" in said.err


def test_a_table_has_one_row_an_image(bundle, small, promptfed, tmp_path):
    import csv
    import io

    folder = first_picture(small, "dog").parent
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "all.csv").write_text(f"path,who\n{folder / '1.png'},me\nbad.png,you\n")
    said = promptfed("predict", bundle, f"{folder}/[02].png", tmp_path / "all.csv", "--csv", "--top", 2)
    assert said.code == 2
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert list(rows[0]) == ["path", "status", "class", "probability", "class_2", "probability_2", "error"]
    names = [*(str(folder / f"{i}.png") for i in (0, 2, 1)), str(tmp_path / "bad.png")]
    assert [row["path"] for row in rows] == names
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "error"]
    assert all(0 < float(row["probability_2"]) <= float(row["probability"]) <= 1 for row in rows[:3])
    assert "no image of a known format" in rows[3]["error"]
    nothing = promptfed("predict", bundle, folder / "0.png", "--csv", "--threshold", 1)
    assert [row["status"] for row in csv.DictReader(io.StringIO(nothing.out))] == ["none"]
    assert promptfed("predict", bundle, folder / "0.png", "--csv", "--json").code == 2


def test_all_clients_get_a_bundle_of_their_own(finished, promptfed, tmp_path):
    said = promptfed("export", finished, "--all", "--out", tmp_path / "all")
    assert said.code == 0, said.err
    assert said.out.split() == [str(tmp_path / "all" / f"client-{k}") for k in range(3)]
    again = promptfed("export", finished, "--all", "--out", tmp_path / "all")
    assert again.code == 2
    assert "overwrite" in again.err
    assert promptfed("export", finished, "--all", "--out", tmp_path / "all", "--overwrite").code == 0


def test_a_bundle_for_another_backbone_is_refused(bundle, small, promptfed, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    about = json.loads((copy / "promptfed_config.json").read_text())
    about["backbone"]["fingerprint"] = "0" * 64
    (copy / "promptfed_config.json").write_text(json.dumps(about))
    said = promptfed("predict", copy, first_picture(small, "ant"))
    assert said.code == 2
    assert "made for backbone 'tiny'" in said.err


def test_eval_gives_the_runs_own_figures_again(finished, small, promptfed):
    metrics = json.loads((finished / "metrics.json").read_text())
    said = promptfed("eval", finished, "--json")
    assert said.code == 0, said.err
    own = small[small.index("--data") + 1]
    assert json.loads(said.out) == {
        own: {"zero_shot": metrics["zero_shot"], "method": metrics["method"], "held_out": []}
    }
    assert "PromptFL" in promptfed("eval", finished).out


def test_eval_on_other_data_scores_the_shared_prompt(finished, small, promptfed, tmp_path):
    from PIL import Image

    for k, name in enumerate(["yak", "emu", "owl", "cod"]):
        for domain in ("photo", "sketch"):
            for root in (tmp_path / "plain" / name, tmp_path / "domains" / domain / name):
                root.mkdir(parents=True, exist_ok=True)
                for i in range(25):
                    Image.new("RGB", (8, 8), (60 * k, 9 * i, len(domain))).save(root / f"{domain}-{i}.png")
    others = [f"folder:{tmp_path / 'plain'}", f"folder:{tmp_path / 'domains'}"]
    words = [word for other in others for word in ("--data", other)]
    said = promptfed("eval", finished, *words, "--json")
    assert said.code == 0, said.err
    rows = json.loads(said.out)
    assert list(rows) == [small[small.index("--data") + 1], *others]
    for figures in rows.values():
        assert 0 <= figures["method"]["base"] <= 1
        assert figures["zero_shot"]["name"] == "zero-shot"
    table = promptfed("eval", finished, *words)
    assert table.code == 0, table.err
    assert "zero-shot > PromptFL" in " ".join(table.out.split())
    by_domain = promptfed("eval", finished, "--data", others[1], "--partition", "domain")
    assert "photo" in by_domain.out
    assert "sketch" in by_domain.out
