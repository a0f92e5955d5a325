from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.numpy import load_file

from promptfed.methods.fedtpg.generator import ContextGenerator


def write_checkpoint(path, width=128, **options):
    state = {name: t.half() for name, t in ContextGenerator(width, width, **options).start(torch.Generator()).items()}
    torch.save({"state_dict": state, "epoch": 500, "optimizer": None, "scheduler": None, "val_result": None}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A released file as it would be for the width of ``tiny``."""
    return write_checkpoint(tmp_path_factory.mktemp("released") / "model.pth.tar-500", n_ctx=3, layers=1)


@pytest.fixture(scope="module")
def task_options(small):
    place = small.index("--rounds")
    return small[:place] + small[place + 2 :]


@pytest.fixture(scope="module")
def imported(checkpoint, task_options, tmp_path_factory):
    """The run that it becomes, to be read only."""
    from promptfed.cli import main

    folder = tmp_path_factory.mktemp("imported") / "tpg"
    with pytest.raises(SystemExit) as ended:
        main(["import", "fedtpg", str(checkpoint), *task_options, "--run", str(folder)])
    assert ended.value.code == 0
    return folder


def test_the_run_holds_the_files_generator_in_float32(imported, checkpoint):
    config = yaml.safe_load((imported / "config.yaml").read_text())
    assert (config["method"], config["rounds"], config["aggregator"]) == ("fedtpg", 500, "uniform")
    assert (config["method_options"]["n_ctx"], config["method_options"]["model_depth"]) == (3, 1)
    state = load_file(imported / "checkpoints" / "round-0500" / "state.safetensors")
    given = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert set(state) == {f"shared/{name}" for name in given}
    assert all((state[f"shared/{name}"] == tensor.float().numpy()).all() for name, tensor in given.items())


def test_eval_export_and_predict_work_on_it(imported, small, promptfed, tmp_path):
    said = promptfed("eval", imported, "--json")
    assert said.code == 0, said.err
    [figures] = json.loads(said.out).values()
    assert 0 <= figures["method"]["base"] <= 1
    said = promptfed("export", imported, "--client", 0, "--out", tmp_path / "bundle")
    assert said.code == 0, said.err
    picture = Path(small[small.index("--data") + 1].removeprefix("folder:")) / "koi" / "0.png"
    said = promptfed("predict", tmp_path / "bundle", picture, "--classes", "koi,lynx,snow leopard", "--json")
    assert said.code == 0, said.err
    assert {row["class"] for row in json.loads(said.out)[0]["ranked"]} == {"koi", "lynx", "snow leopard"}


def test_its_figures_are_those_of_the_generator_itself(imported, promptfed):
    from promptfed.evaluation import evaluate
    from promptfed.experiment import Experiment
    from promptfed.prompt_state import PromptState
    from promptfed.runs.directory import RunDirectory
    from promptfed.types import ClientPrompt

    experiment = Experiment.build(RunDirectory.open(imported).config)
    state = load_file(imported / "checkpoints" / "round-0500" / "state.safetensors")
    shared = PromptState({name.removeprefix("shared/"): torch.from_numpy(t) for name, t in state.items()})
    prompts = {data.client: ClientPrompt(shared) for data in experiment.task.clients}
    figures = evaluate(experiment.method(), prompts, experiment.task).figures
    [said] = json.loads(promptfed("eval", imported, "--json").out).values()
    assert [said["method"][part] for part in ("local", "base", "new")] == [figures.local, figures.base, figures.new]


def test_a_generator_of_deep_prompts_is_told_its_depth(checkpoint, task_options, promptfed, tmp_path):
    words = ["import", "fedtpg", checkpoint, *task_options, "--set", "method.prompt_depth=3"]
    said = promptfed(*words, "--run", tmp_path / "deep")
    assert said.code == 0, said.err
    assert said.out.strip() == str(tmp_path / "deep")
    options = yaml.safe_load((tmp_path / "deep" / "config.yaml").read_text())["method_options"]
    assert (options["n_ctx"], options["prompt_depth"]) == (1, 3)


def test_the_help_teaches_by_example(promptfed):
    said = promptfed("import", "fedtpg", "--help")
    assert said.code == 0
    assert "promptfed import fedtpg model.pth.tar-500" in said.out
    assert "fedtpg" in promptfed("import", "--help").out


def test_every_error_is_one_line_and_leaves_no_run(checkpoint, imported, task_options, promptfed, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    wide = write_checkpoint(tmp_path / "wide", width=16)
    cases = [
        ([tmp_path / "nowhere"], ["nowhere", "does not exist"]),
        ([tmp_path / "notes.txt"], ["notes.txt", "not a PyTorch file"]),
        ([wide, *task_options], ["16 wide", "'tiny' are 128", "open_clip:ViT-B-16/openai"]),
        ([checkpoint, "--set", "method.n_ctx=5"], ["'n_ctx' is 5", "has 3"]),
        ([checkpoint, "--set", "method.prompt_depth=2"], ["'prompt_depth' is 2", "3 queries"]),
        ([checkpoint, "--set", "method.prompt_depth=0"], ["prompt_depth", "greater than or equal to 1"]),
        ([checkpoint, "--set", "method.init=a"], ["init", "unknown"]),
        ([checkpoint, "--backbone", "tinny"], ["tinny", "tiny"]),
    ]
    for words, parts in cases:
        said = promptfed("import", "fedtpg", *words, "--run", tmp_path / "run")
        assert said.code == 2, said
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        for part in parts:
            assert part in said.err
        assert not (tmp_path / "run").exists()
    said = promptfed("import", "fedtpg", checkpoint, *task_options, "--run", imported)
    assert "holds a run already" in said.err
