"""The baseline that has read the descriptions and nothing else."""

from __future__ import annotations

from promptfed.config import build_config
from promptfed.experiment import Experiment
from promptfed.types import NO_PROMPT

from ..tiny_language_models import language_model


def test_a_text_goes_to_the_class_whose_description_has_its_words(tmp_path):
    rows = [
        ("rain in Rome", "weather"),
        ("the wind tonight", "weather"),
        ("play a song", "music"),
        ("an album", "music"),
    ]
    (tmp_path / "own.tsv").write_text("text\tlabel\n" + "".join(f"{t}\t{label}\n" for t, label in rows * 1))
    descriptions = {"weather": "Rain, wind and sun.", "music": "Songs and albums."}
    config = build_config(
        {
            "task": "tool-routing",
            "data": f"tsv:{tmp_path / 'own.tsv'}",
            "clients": 1,
            "partition": "iid",
            "task_options": {"descriptions": descriptions},
        }
    )
    experiment = Experiment.build(config, model_for=lambda form: language_model("bert", form))
    method, task = experiment.method("description_words"), experiment.task
    scores = method.logits(NO_PROMPT, NO_PROMPT, task.base_classes, task.base_test)
    assert scores.argmax(-1).tolist() == task.base_test.labels.tolist()
    turned = method.logits(NO_PROMPT, NO_PROMPT, task.base_classes[::-1], task.base_test)
    assert (turned.flip(-1) == scores).all()
    state, replies = experiment.federation("description_words").run_round(
        experiment.federation("description_words").start()
    )
    assert len(state.shared) == 0
    assert all(len(reply.update.shared) == 0 for reply in replies)
