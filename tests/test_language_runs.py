"""Whole runs on a language model: interrupted, on Ray, under robust servers and processors, personalised."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch

import promptfed as pf
from promptfed.export.finished import FinishedRun
from promptfed.personalize.onboard import newcomer_source, onboard
from promptfed.personalize.options import OnboardOptions

from .tiny_language_models import WORDS, tokenizer, transformer

pytestmark = pytest.mark.slow
METHODS = ("fedprompt", "fedit", "feddat")
Train = Callable[..., pf.Run]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train on a tiny random model and texts of its words, in folders of their own."""
    place = tmp_path_factory.mktemp("language")
    transformer("llama").save_pretrained(place / "llama")
    tokenizer().save_pretrained(place / "llama")
    good, bad = ("good", "great", "wonderful"), ("bad", "terrible", "boring")
    lines = ["text\tlabel"]
    for k, noun in enumerate(WORDS[:40]):
        lines += [f"the {noun} was {good[k % 3]} {WORDS[k - 20]}\tpositive", f"the {noun} is {bad[k % 3]}\tnegative"]
    (place / "reviews.tsv").write_text("\n".join(lines))
    numbers = iter(range(1000))

    def run(method: str, **options: Any) -> pf.Run:
        folder = place / f"run {next(numbers)}"
        usual: dict[str, Any] = {
            "task": "text-classification", "data": f"tsv:{place / 'reviews.tsv'}", "backbone": f"lm:{place / 'llama'}",
            "partition": "iid", "clients": 3, "shots": 4, "rounds": 3, "threads": 1, "progress": False,
            "baselines": (), "task_options": {"words": {"positive": "good", "negative": "bad"}, "test_per_class": 8},
        }  # fmt: skip
        return pf.train(method, folder=folder, **{**usual, **options})

    return run


@pytest.mark.parametrize("method", METHODS)
def test_a_run_without_its_last_checkpoint_goes_on_to_the_same_bits(train: Train, method: str) -> None:
    whole = train(method)
    expected = whole.metrics["prompt_sha256"]
    personal = {client: dict(whole.prompt(client).personal) for client in range(3)}
    newest = max((whole.path / "checkpoints").iterdir())
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    again = pf.load_run(whole.path).resume(progress=False)
    assert again.metrics["prompt_sha256"] == expected
    for client, values in personal.items():
        kept = again.prompt(client).personal
        assert kept.keys() == values.keys()
        assert all(torch.equal(kept[name], tensor) for name, tensor in values.items())


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no promptfed[ray]")
@pytest.mark.parametrize("method", METHODS)
def test_ray_trains_the_same_prompts(train: Train, method: str) -> None:
    local, ray = train(method), train(method, engine="ray", actors=1)
    ours, theirs = local.prompt().shared, ray.prompt().shared
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_robust_servers_and_processors_act_on_them(train: Train, method: str) -> None:
    plain = train(method).prompt().shared
    median = train(method, aggregator="median").prompt().shared
    small = train(method, processors=["clip", {"quantize": {"format": "int8"}}])
    assert any(not torch.equal(plain[name], median[name]) for name in plain)
    for name, tensor in plain.items():
        assert (small.prompt().shared[name] - tensor).abs().max() < 0.2
    sizes = [run.metrics["cost"]["bytes_up"] for run in (small, train(method))]
    assert sizes[0] < 0.5 * sizes[1]


@pytest.mark.parametrize("method", METHODS)
def test_clients_fine_tune_and_mix(train: Train, method: str) -> None:
    run = train(method)
    curve = run.personalize(progress=False, **({} if method == "feddat" else {"epochs": 2}))
    assert curve is not None
    assert (run.path / "personalized" / "curve.json").exists()
    bundle = run.export(client=0, path=run.path / "bundle")
    answers = pf.load(bundle, model=run.config.backbone).predict(["the film was good", "the plot is terrible"])
    assert len(list(answers)) == 2


def test_a_newcomer_brings_texts(train: Train) -> None:
    run = train("fedprompt")
    finished = FinishedRun.load(run.folder)
    source = newcomer_source(finished, run.config.data)
    newcomer = onboard(finished, source, "a clinic", OnboardOptions(alphas=(0.0, 1.0), epochs=1))
    assert newcomer.bundle.meta.examples == "texts"
    assert newcomer.data.train.items[0].text.startswith("the ")
    assert 0 <= newcomer.deployed <= 1
