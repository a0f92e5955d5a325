"""What a run keeps for its report: counted from the tests that it makes anyway, and small."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from promptfed.config import RunConfig, build_config
from promptfed.errors import DataError
from promptfed.examples.base import ImageItem
from promptfed.experiment import Experiment
from promptfed.resolve import resolve
from promptfed.run_details import LARGEST_PICTURE, PIXELS, picture_of, samples_of
from promptfed.runs.directory import DETAILS, RunDirectory
from promptfed.training import Training

OPTIONS = {"data": "icons:codicons,elusive", "clients": 2, "shots": 1, "rounds": 1,
           "task_options": {"test_per_class": 2, "val_shots": 1}, "method_options": {"n_ctx": 2}}  # fmt: skip
Train = Callable[..., RunDirectory]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    def train(**options: object) -> RunDirectory:
        config = resolve(build_config({**OPTIONS, **options}))
        run = RunDirectory.create(tmp_path_factory.mktemp("runs") / "run", config, label="")
        Training(Experiment.build(config), run, baselines=()).execute()
        return run

    return train


@pytest.fixture(scope="module")
def run(train: Train) -> RunDirectory:
    return train()


def test_counts_are_those_of_the_figures(run: RunDirectory) -> None:
    details, [evaluation] = run.read_json(DETAILS), [e for e in run.events.read() if e["event"] == "evaluation"]
    assert details is not None
    items = sum(row["items"] for row in evaluation["local"])
    assert details["items"] == items == sum(count for _, _, count in details["counts"])
    right = sum(count for truth, prediction, count in details["counts"] if truth == prediction)
    assert right == pytest.approx(sum(row["all_classes"] * row["items"] for row in evaluation["local"]))


def test_samples_are_small_pictures_with_shares(run: RunDirectory) -> None:
    samples = (run.read_json(DETAILS) or {})["samples"]
    assert 1 <= len(samples) <= 12
    for sample in samples:
        assert sample["name"].startswith("client ")
        assert 0 <= sample["of_truth"] <= sample["confidence"] <= 1
        picture = Image.open(io.BytesIO(base64.b64decode(sample["image"].split(",")[1])))
        assert max(picture.size) <= PIXELS
    assert (run.path / DETAILS).stat().st_size < 12 * 1.4 * LARGEST_PICTURE


def test_every_vector_has_its_words(run: RunDirectory) -> None:
    words = (run.read_json(DETAILS) or {})["words"]
    assert words["whose"] == "shared"
    assert [vector["position"] for vector in words["vectors"]["vectors"]] == [1, 2]
    assert all(len(vector["words"]) == 5 for vector in words["vectors"]["vectors"])


def test_the_cost_of_a_run_counts_no_further_call(run: RunDirectory, train: Train) -> None:
    """All examples are known to the cache, so the second run encodes none."""
    again = train(report_samples=0)
    assert (again.read_json(DETAILS) or {})["samples"] == []
    features = [event for event in again.events.read() if "image_encoder_calls" in event]
    assert sum(event["image_encoder_calls"] for event in features) == 0
    first, second = (r.read_metrics() or {} for r in (run, again))
    assert first["method"] == second["method"]


def test_private_training_keeps_no_samples_unless_asked() -> None:
    assert samples_of(RunConfig()) == 12
    assert samples_of(RunConfig(report_samples=3)) == 3
    private = {"privacy_options": {"dp": "client"}}
    assert samples_of(RunConfig(**private)) == 0
    assert samples_of(RunConfig(**private, report_samples=4)) == 4


class Picture(ImageItem):
    def __init__(self, image: Image.Image | None) -> None:
        self.image = image

    name = property(lambda self: "picture")  # type: ignore[assignment]

    def content_id(self) -> str:
        return ""

    def load(self) -> Image.Image:
        if self.image is None:
            raise DataError("no picture")
        return self.image


def test_a_picture_is_scaled_down_and_in_the_smaller_format() -> None:
    address = picture_of(Picture(Image.new("L", (1000, 500), 7)))
    assert address.startswith("data:image/png;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
    assert (picture.size, picture.mode) == ((PIXELS, PIXELS // 2), "RGB")
    assert picture_of(Picture(Image.effect_noise((96, 96), 90))).startswith("data:image/jpeg")


def test_a_run_that_goes_on_drops_what_it_kept_of_the_rounds_before(run: RunDirectory, tmp_path: Path) -> None:
    config = run.config.model_copy(update={"rounds": 2})
    run.reconfigure(config)
    training = Training(Experiment.build(config), run, baselines=())
    training.train()
    assert not (run.path / DETAILS).exists()
    assert run.read_metrics() is None
